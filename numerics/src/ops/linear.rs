//! A linear layer y = x·Wᵀ + b, with or without a low-rank adapter on it.
//!
//! The weight may be dense, in 4 bits (decoded into one scratch buffer for each use, never kept) or itself trained.

use tch::{Device, Kind, Tensor};

use super::Result;
use super::low_rank::{LowRank, Saved};
use super::profile::{Operation, timed};
use super::trained::{Gradient, WeightId};
use crate::ops::four_bit::FourBitMatrix;

/// A dense matrix or vector and, where it is trained, its gradient.
#[derive(Debug)]
pub struct Dense {
    /// In the type of the activations or in fp32; where trained, a view of the flat fp32 parameters.
    pub value: Tensor,
    /// A view of the flat gradients; added to by every backward.
    pub gradient: Option<Gradient>,
}

impl Dense {
    /// The value in the type of the scratch buffer. It may lie in the buffer: use it before the next call.
    pub fn in_kind(&self, scratch: &mut Scratch) -> Result<Tensor> {
        if self.value.f_kind()? == scratch.kind {
            return Ok(self.value.shallow_clone());
        }
        let mut cast = scratch.take(&self.value.size())?;
        cast.f_copy_(&self.value)?;
        Ok(cast)
    }
}

/// The matrix of a linear layer, as it is held.
#[derive(Debug)]
pub enum Weight {
    /// Dense, fixed or trained.
    Dense(Dense),
    /// Fixed, in 4 bits.
    FourBit(FourBitMatrix),
}

impl Weight {
    /// The matrix in the type of the scratch buffer. It may lie in the buffer: use it before the next call.
    fn dense(&self, scratch: &mut Scratch) -> Result<Tensor> {
        timed(Operation::Decode, || match self {
            Self::Dense(dense) => dense.in_kind(scratch),
            Self::FourBit(matrix) => {
                let (rows, columns) = matrix.shape();
                let mut dense = scratch.take(&[rows, columns])?;
                matrix.decode_into(&mut dense)?;
                Ok(dense)
            }
        })
    }

    fn gradient(&self) -> Option<&Gradient> {
        match self {
            Self::Dense(dense) => dense.gradient.as_ref(),
            Self::FourBit(_) => None,
        }
    }
}

/// One buffer into which weights are decoded, each over the last.
#[derive(Debug)]
pub struct Scratch {
    kind: Kind,
    buffer: Option<Tensor>,
}

impl Scratch {
    /// An empty buffer for weights in `kind`; it grows to the largest weight it meets.
    pub const fn new(kind: Kind) -> Self {
        Self { kind, buffer: None }
    }

    fn take(&mut self, shape: &[i64]) -> Result<Tensor> {
        let length = shape.iter().product::<i64>();
        let buffer = match self.buffer.take() {
            Some(buffer) if buffer.numel() as i64 >= length => buffer,
            _ => Tensor::f_empty([length], (self.kind, Device::Cpu))?,
        };
        let view = buffer.f_narrow(0, 0, length)?.f_view(shape)?;
        self.buffer = Some(buffer);
        Ok(view)
    }
}

/// A linear layer.
#[derive(Debug)]
pub struct Linear {
    /// W (out, in).
    weight: Weight,
    /// b (out).
    bias: Option<Dense>,
    /// What adapters know W by.
    id: WeightId,
}

impl Linear {
    /// A layer of W (out, in) and b (out).
    pub fn new(weight: Weight, bias: Option<Dense>) -> Self {
        Self {
            weight,
            bias,
            id: WeightId::new(),
        }
    }

    /// x (M, in) to y (M, out), and what the backward needs where there is an adapter.
    pub fn forward(
        &self,
        x: &Tensor,
        adapter: Option<&LowRank>,
        scratch: &mut Scratch,
    ) -> Result<(Tensor, Option<Saved>)> {
        let weight = self.weight.dense(scratch)?;
        let (mut y, saved) = match adapter {
            Some(adapter) => {
                let run = || adapter.forward(x, &weight, self.id);
                let (y, saved) = timed(Operation::LowRank, run)?;
                (y, Some(saved))
            }
            None => (with_weight(None, x, &weight.f_tr()?)?, None),
        };
        if let Some(bias) = &self.bias {
            let _ = y.f_add_(&bias.value)?;
        }
        Ok((y, saved))
    }

    /// The gradient for x (M, in) from that for y (M, out), added to `dx` if there is one; gradients of what is trained are
    /// added to their own. `adapter` comes with what the forward saved.
    pub fn backward(
        &self,
        x: &Tensor,
        adapter: Option<(&LowRank, &Saved)>,
        dy: &Tensor,
        dx: Option<Tensor>,
        scratch: &mut Scratch,
    ) -> Result<Tensor> {
        if let Some(gradient) = self.weight.gradient() {
            gradient.add_product(&dy.f_tr()?, x)?;
        }
        if let Some(gradient) = self.bias.as_ref().and_then(|bias| bias.gradient.as_ref()) {
            gradient.add(&dy.f_sum_dim_intlist(0, false, Kind::Float)?)?;
        }
        let weight = self.weight.dense(scratch)?;
        match adapter {
            Some((adapter, saved)) => {
                let run = || adapter.backward(x, &weight, saved, dy, dx);
                timed(Operation::LowRank, run)
            }
            None => with_weight(dx, dy, &weight),
        }
    }

    /// The norms of the rows of W + s·B·A (out), fp32: what DoRA's magnitudes start from.
    pub fn norms(&self, adapter: &LowRank, scratch: &mut Scratch) -> Result<Tensor> {
        adapter.norms(&self.weight.dense(scratch)?)
    }
}

/// sum + left·right, in place, where right is a weight of the base or its transposed.
pub(super) fn with_weight(sum: Option<Tensor>, left: &Tensor, right: &Tensor) -> Result<Tensor> {
    timed(Operation::Product, || plus_product(sum, left, right))
}

/// sum + left·right, in place.
pub(super) fn plus_product(sum: Option<Tensor>, left: &Tensor, right: &Tensor) -> Result<Tensor> {
    Ok(match sum {
        Some(mut sum) => sum.f_addmm_(left, right)?,
        None => left.f_mm(right)?,
    })
}
