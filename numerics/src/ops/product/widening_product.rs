//! Products of bfloat16 matrices whose sums stay in fp32: libtorch's own rounds them to bfloat16, so that logits near 16 come in
//! steps of 1/8.
//!
//! Our own loops sum in fp32. Where libtorch's products are faster, it brings MKL's `cblas_gemm_bf16bf16f32` on x86-64, which is as fast
//! as the product that rounds. Elsewhere the right matrix is widened part by part.

use half::bf16;
use tch::{Kind, Tensor};

use super::matmul::{is_own, matmul_into};
use super::panel::Matrix;
use crate::ops::Result;
use crate::ops::cpu::memory::{self, slice, slice_mut};

/// x (M, H) times the transposed of W (V, H), of one type: (M, V) in fp32.
pub(crate) fn times_transposed(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let mut product = memory::empty::<f32>(&[x.size()[0], weight.size()[0]])?;
    times_transposed_into(&mut product, x, weight)?;
    Ok(product)
}

/// The same, written over a contiguous tensor (M, V) in fp32.
pub(crate) fn times_transposed_into(out: &mut Tensor, x: &Tensor, weight: &Tensor) -> Result<()> {
    match x.f_kind()? {
        Kind::Float => {
            let _ = x.f_mm_out(out, &weight.f_tr()?)?;
            Ok(())
        }
        kind if is_own(kind) => {
            let (x, weight) = (x.f_contiguous()?, weight.f_contiguous()?);
            matmul_into(out, &x, Matrix::of(&weight, false)?.transposed())
        }
        _ => times_transposed_bf16(out, x, weight),
    }
}

#[cfg(target_arch = "x86_64")]
fn times_transposed_bf16(out: &mut Tensor, x: &Tensor, weight: &Tensor) -> Result<()> {
    use crate::ops::Error;

    let (rows, width) = x.size2()?;
    let (columns, weight_width) = weight.size2()?;
    if width != weight_width || out.size2()? != (rows, columns) {
        return Err(Error::Libtorch(format!(
            "a product of rows of {width} and of {weight_width} numbers into {:?}, expected one width and {rows} rows of {columns}",
            out.size()
        )));
    }
    let int = |size: i64| {
        i32::try_from(size).map_err(|_| {
            Error::Libtorch(format!(
                "a matrix with a side of {size}, expected less than 2^31"
            ))
        })
    };
    let (m, n, k) = (int(rows)?, int(columns)?, int(width)?);
    let (x, weight) = (x.f_contiguous()?, weight.f_contiguous()?);
    let (left, right) = (slice::<bf16>(&x)?, slice::<bf16>(&weight)?);
    let sums = slice_mut::<f32>(out)?;
    // SAFETY: the slices are of m·k, n·k and m·n elements, as their tensors' shapes say, row by row without gaps, and none overlaps
    // `sums`, which is lent to be written. MKL reads nothing of `sums` where beta is 0.
    #[expect(unsafe_code, reason = "a function of C")]
    unsafe {
        mkl::cblas_gemm_bf16bf16f32(
            mkl::ROW_MAJOR,
            mkl::AS_IS,
            mkl::TRANSPOSED,
            m,
            n,
            k,
            1.0,
            left.as_ptr().cast(),
            k,
            right.as_ptr().cast(),
            k,
            0.0,
            sums.as_mut_ptr(),
            n,
        );
    }
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn times_transposed_bf16(out: &mut Tensor, x: &Tensor, weight: &Tensor) -> Result<()> {
    /// Rows of the right matrix that are widened at a time.
    const WIDENED: i64 = 4096;
    let x = x.f_to_kind(Kind::Float)?.f_contiguous()?;
    let columns = weight.size()[0];
    for start in (0..columns).step_by(WIDENED as usize) {
        let count = WIDENED.min(columns - start);
        let part = weight.f_narrow(0, start, count)?;
        let product = x.f_mm(&part.f_to_kind(Kind::Float)?.f_tr()?)?;
        let _ = out.f_narrow(1, start, count)?.f_copy_(&product)?; // (M, part)
    }
    Ok(())
}

/// What is used of MKL, which lies in `libtorch_cpu`. Its matrices' sides are of 32 bits there.
#[cfg(target_arch = "x86_64")]
mod mkl {
    pub(super) const ROW_MAJOR: i32 = 101;
    pub(super) const AS_IS: i32 = 111;
    pub(super) const TRANSPOSED: i32 = 112;

    #[expect(unsafe_code, reason = "a function of C")]
    unsafe extern "C" {
        /// c (m, n) = alpha·a·b + beta·c, of bfloat16 as their 16 bits, in fp32.
        pub(super) fn cblas_gemm_bf16bf16f32(
            layout: i32,
            transpose_a: i32,
            transpose_b: i32,
            m: i32,
            n: i32,
            k: i32,
            alpha: f32,
            a: *const u16,
            lda: i32,
            b: *const u16,
            ldb: i32,
            beta: f32,
            c: *mut f32,
            ldc: i32,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::random;

    #[test]
    fn products_of_bfloat16_are_summed_and_kept_in_fp32() {
        for rows in [1, 5, 33] {
            let x = random(&[rows, 72], 1).to_kind(Kind::BFloat16);
            let weight = random(&[5000, 72], 2).to_kind(Kind::BFloat16);
            let exact = x
                .to_kind(Kind::Double)
                .mm(&weight.to_kind(Kind::Double).tr());
            let error = |product: &Tensor| {
                let off = product.to_kind(Kind::Double) - &exact;
                off.abs().max().double_value(&[])
            };
            let found = times_transposed(&x, &weight).unwrap();
            assert_eq!(found.size(), [rows, 5000]);
            assert!(error(&found) < 1e-4, "{}", error(&found));
            let part = times_transposed(&x.narrow(0, 0, 1), &weight.narrow(0, 7, 3)).unwrap();
            assert_eq!(part.size(), [1, 3]);
            let rounded = error(&x.mm(&weight.tr()));
            assert!(rounded > 1e-2, "rounding would not be seen");
        }
    }
}
