//! Products of whole tensors by our own loops, and where these are better than libtorch's.

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::panel::{Matrix, Numbers, Right};
use super::rows::Rows;
use super::{Out, OutNumbers, Product, run};
use crate::device::{Bfloat16, multiplies_bfloat16};
use crate::ops::cpu::memory::{Shared, slice, slice_mut};
use crate::ops::cpu::{brgemm, lanes};
use crate::ops::{Error, Result};

/// Whether products of activations in `kind` are our own loops': where the processor has wide lanes that multiply and add at once,
/// unless it multiplies bfloat16 faster than fp32, which libtorch knows how to.
pub(crate) fn is_own(kind: Kind) -> bool {
    lanes::are_wide() && (kind == Kind::Float || multiplies_bfloat16() != Bfloat16::Faster)
}

/// Who multiplies activations by weights.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Multiplier {
    /// Our own loops, in fp32.
    Own,
    /// The kernel for bfloat16, panel by panel.
    Kernel,
    /// libtorch's products of whole matrices.
    Libtorch,
}

impl Multiplier {
    /// The fastest for so many rows of activations in `kind`, where the inner dimensions of the products are these.
    pub(crate) fn of(kind: Kind, rows: usize, inner: impl IntoIterator<Item = usize>) -> Self {
        #[cfg(test)]
        if let Some(forced) = FORCED.get() {
            return forced;
        }
        // A few rows are multiplied as fast as weights are read.
        let fills_tiles = rows >= brgemm::ROW_STEP
            && inner
                .into_iter()
                .all(|inner| inner.is_multiple_of(brgemm::INNER_STEP));
        match is_own(kind) {
            true => Self::Own,
            false if kind == Kind::BFloat16 && fills_tiles && brgemm::is_usable() => Self::Kernel,
            false => Self::Libtorch,
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Whom tests choose, whatever is fastest.
    pub(crate) static FORCED: std::cell::Cell<Option<Multiplier>> = const { std::cell::Cell::new(None) };
}

/// left (M, K), contiguous, times a right matrix of so many columns, written over `out` (M, columns), which is contiguous.
pub(crate) fn matmul_into(out: &mut Tensor, left: &Tensor, right: Right<'_>) -> Result<()> {
    let rows = Rows::of(left)?;
    let columns = out.size2()?.1 as usize;
    run(&[Product {
        terms: vec![rows.times(right, 0..rows.count)],
        rows: rows.count,
        columns,
        out: Out::over(out)?,
    }]);
    Ok(())
}

/// The same as a new tensor (M, columns) in `kind`.
pub(crate) fn matmul(left: &Tensor, right: Right<'_>, columns: i64, kind: Kind) -> Result<Tensor> {
    let mut out = Tensor::f_empty([left.size()[0], columns], (kind, Device::Cpu))?;
    matmul_into(&mut out, left, right)?;
    Ok(out)
}

impl<'a> Matrix<'a> {
    /// A contiguous tensor (rows, columns) in fp32 or bfloat16; `rounded` as [`Self::rounded`] says.
    pub(crate) fn of(tensor: &'a Tensor, rounded: bool) -> Result<Self> {
        let numbers = match tensor.f_kind()? {
            Kind::Float => Numbers::Float(slice(tensor)?),
            Kind::BFloat16 => Numbers::Brain(slice::<bf16>(tensor)?),
            other => {
                return Err(Error::Libtorch(format!(
                    "a matrix of {other:?}, expected Float or BFloat16"
                )));
            }
        };
        Ok(Self {
            numbers,
            width: tensor.size2()?.1 as usize,
            rounded,
        })
    }
}

impl<'a> Out<'a> {
    /// All of a contiguous tensor (M, N) that was just made.
    pub(crate) fn over(tensor: &'a mut Tensor) -> Result<Self> {
        let width = tensor.size2()?.1 as usize;
        let numbers = match tensor.f_kind()? {
            Kind::BFloat16 => OutNumbers::Brain(Shared::new(slice_mut::<bf16>(tensor)?)),
            _ => OutNumbers::Float(Shared::new(slice_mut::<f32>(tensor)?)),
        };
        Ok(Self {
            numbers,
            row: width,
            column: 1,
            factor: 1.0,
            bias: None,
            adds: false,
        })
    }
}
