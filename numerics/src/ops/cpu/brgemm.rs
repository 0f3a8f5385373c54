//! Products of bfloat16 blocks summed in fp32, by the kernel that libtorch brings of oneDNN: with AMX, or with AVX512-BF16.
//!
//! The only place that calls it. The kernel wants the right matrix in pairs: the numbers of two rows that follow each other, column
//! by column (`vnni`). It is made for each shape that it meets, which takes a millisecond, and kept; so shapes should be few.

use half::bf16;

/// What the inner dimension is a multiple of: the numbers of a row of AMX's tiles.
pub(crate) const INNER_STEP: usize = 32;

/// What the rows are best a multiple of: the rows of AMX's tiles.
pub(crate) const ROW_STEP: usize = 16;

/// Whether this process can call the kernel: it would end the process where oneDNN has none for the processor.
#[cfg(target_arch = "x86_64")]
pub(crate) fn is_usable() -> bool {
    use std::sync::OnceLock;

    use super::instructions::{Instructions, instructions};
    use crate::device::{OneDnnSet, onednn_may_use};

    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        instructions() == Instructions::Avx512
            && std::arch::is_x86_feature_detected!("avx512bf16")
            && onednn_may_use(OneDnnSet::Avx512Bf16)
    })
}

/// Other processors' libtorch has no such kernel.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const fn is_usable() -> bool {
    false
}

/// The sizes of a product: (rows, inner)·(inner, columns).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    /// A multiple of [`INNER_STEP`].
    pub(crate) inner: usize,
    /// A multiple of 16.
    pub(crate) columns: usize,
}

/// out (rows, columns) = left·right, or += where it `adds`. Rows of `left` are `left_stride` numbers apart, those of `out` as many as
/// it has columns. `right` holds a pair of rows in each row of `columns` numbers of 32 bits.
pub(crate) fn product(
    left: &[bf16],
    left_stride: usize,
    right: &[f32],
    out: &mut [f32],
    adds: bool,
    size: Size,
) {
    let Size {
        rows,
        inner,
        columns,
    } = size;
    if rows == 0 || inner == 0 {
        return;
    }
    assert!(is_usable(), "no kernel for this processor");
    assert!(inner.is_multiple_of(INNER_STEP) && columns.is_multiple_of(16));
    assert!(
        (rows - 1) * left_stride + inner <= left.len(),
        "left is short"
    );
    assert!(inner / 2 * columns <= right.len(), "right is short");
    assert!(rows * columns <= out.len(), "the result is short");
    let [m, n, k, left_stride] = [rows, columns, inner, left_stride].map(|size| size as i64);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (m, n, k, left_stride, adds);
    // SAFETY: all matrices lie within their slices, as just asked, and `out` is lent to be written. bf16 is a transparent u16.
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "a function of C++")]
    unsafe {
        libtorch::brgemm(
            m,
            n,
            k,
            left_stride,
            n,
            n,
            adds,
            left.as_ptr().cast(),
            right.as_ptr().cast(),
            out.as_mut_ptr(),
            true,
        );
    }
}

/// Gives back what the kernel holds of the thread's processor: AMX's tiles, which would be saved at every change of thread.
pub(crate) fn release() {
    // SAFETY: it may be called at any time.
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "a function of C++")]
    unsafe {
        libtorch::brgemm_release(true);
    }
}

/// Functions of `at::native::cpublas`, by their symbols in libtorch 2.11: without one of them nothing links.
#[cfg(target_arch = "x86_64")]
mod libtorch {
    #[expect(unsafe_code, reason = "functions of C++")]
    unsafe extern "C" {
        /// brgemm(M, N, K, ld_a, ld_b, ld_c, add_C, A, B, C, is_vnni).
        #[link_name = "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb"]
        pub(super) fn brgemm(
            m: i64,
            n: i64,
            k: i64,
            ld_a: i64,
            ld_b: i64,
            ld_c: i64,
            add_c: bool,
            a: *const u16,
            b: *const u16,
            c: *mut f32,
            is_vnni: bool,
        );

        #[link_name = "_ZN2at6native7cpublas14brgemm_releaseEb"]
        pub(super) fn brgemm_release(is_vnni: bool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_of_small_whole_numbers_is_exact_and_added_where_that_is_asked_for() {
        if !is_usable() {
            return;
        }
        let number = |index: usize| ((index * 31) % 17) as f32 - 8.0;
        for (rows, inner, columns) in [(1, 32, 16), (16, 64, 48), (64, 576, 64), (48, 1536, 64)] {
            let stride = inner + 32;
            let left: Vec<bf16> = (0..rows * stride)
                .map(|index| bf16::from_f32(number(index)))
                .collect();
            let right: Vec<f32> = (0..inner * columns)
                .map(|index| number(index + 5))
                .collect();
            let pairs: Vec<f32> = (0..inner / 2 * columns)
                .map(|index| {
                    let (pair, column) = (index / columns, index % columns);
                    let half = |row: usize| {
                        u32::from(bf16::from_f32(right[row * columns + column]).to_bits())
                    };
                    f32::from_bits(half(2 * pair) | half(2 * pair + 1) << 16)
                })
                .collect();
            let expected = |index: usize| -> f32 {
                let (row, column) = (index / columns, index % columns);
                (0..inner)
                    .map(|k| left[row * stride + k].to_f32() * right[k * columns + column])
                    .sum()
            };
            let size = Size {
                rows,
                inner,
                columns,
            };
            let mut out = vec![f32::NAN; rows * columns];
            product(&left, stride, &pairs, &mut out, false, size);
            let once: Vec<f32> = (0..out.len()).map(expected).collect();
            assert_eq!(out, once);
            product(&left, stride, &pairs, &mut out, true, size);
            let twice: Vec<f32> = once.iter().map(|sum| 2.0 * sum).collect();
            assert_eq!(out, twice);
            release();
        }
    }
}
