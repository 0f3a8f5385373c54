//! The linear layers of one layer, with the adapters that ride on them.

use tch::Tensor;

use super::Projection;
use crate::ops::linear::{Linear, Scratch};
use crate::ops::low_rank::{LowRank, Saved};
use crate::ops::{Error, Result};

/// The number of kinds of linear layers.
pub(super) const COUNT: usize = Projection::ALL.len();

/// The adapters of a layer, by `Projection`.
pub(super) type Adapters = [Option<LowRank>; COUNT];

/// A layer without adapters.
pub(super) const NO_ADAPTERS: &Adapters = &[const { None }; COUNT];

/// The linear layers of a layer, by `Projection`; absent those that the family does not have.
pub(super) type Linears = [Option<Linear>; COUNT];

/// What each adapter saved for the backward, by `Projection`.
pub(super) type Inner = [Option<Saved>; COUNT];

/// The linear layers of a layer in one pass.
#[derive(Clone, Copy)]
pub(super) struct Adapted<'a> {
    pub(super) linears: &'a Linears,
    pub(super) adapters: &'a Adapters,
}

impl Adapted<'_> {
    /// x (M, in) to y (M, out).
    pub(super) fn forward(
        &self,
        projection: Projection,
        x: &Tensor,
        inner: &mut Inner,
        scratch: &mut Scratch,
    ) -> Result<Tensor> {
        let index = projection as usize;
        let (y, saved) =
            self.linear(projection)?
                .forward(x, self.adapters[index].as_ref(), scratch)?;
        inner[index] = saved;
        Ok(y)
    }

    /// The gradient for x (M, in) from that for y (M, out), added to `dx` if there is one.
    pub(super) fn backward(
        &self,
        projection: Projection,
        x: &Tensor,
        dy: &Tensor,
        dx: Option<Tensor>,
        inner: &Inner,
        scratch: &mut Scratch,
    ) -> Result<Tensor> {
        let index = projection as usize;
        let adapter = self.adapters[index].as_ref().zip(inner[index].as_ref());
        self.linear(projection)?
            .backward(x, adapter, dy, dx, scratch)
    }

    fn linear(&self, projection: Projection) -> Result<&Linear> {
        self.linears[projection as usize].as_ref().ok_or_else(|| {
            Error::Configuration(format!(
                "the model has no {}, expected it in its layers",
                projection.name()
            ))
        })
    }
}
