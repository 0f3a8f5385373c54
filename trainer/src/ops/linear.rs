//! A linear layer y = x·Wᵀ + b, with a low-rank adapter: y += s·(x·Aᵀ)·Bᵀ (Hu et al., 2021).
//!
//! The weight may be dense, in 4 bits (decoded into one scratch buffer for each use, never kept) or itself trained. The
//! adapter's part is computed first and the product with W is added to it, so that in bf16 the small update is rounded at
//! its own size and summed in the product's fp32 accumulator; rounding after the sum would lose it.

use tch::{Device, Kind, Tensor};

use super::Result;
use crate::method::nf4::Nf4Matrix;

/// A dense matrix or vector and, where it is trained, its gradient.
#[derive(Debug)]
pub struct Dense {
    /// In the type of the activations or in fp32; where trained, a view of the flat fp32 parameters.
    pub value: Tensor,
    /// In fp32, a view of the flat gradients; added to by every backward.
    pub gradient: Option<Tensor>,
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
    Nf4(Nf4Matrix),
}

impl Weight {
    /// The matrix in the type of the scratch buffer. It may lie in the buffer: use it before the next call.
    fn dense(&self, scratch: &mut Scratch) -> Result<Tensor> {
        match self {
            Self::Dense(dense) => dense.in_kind(scratch),
            Self::Nf4(matrix) => {
                let (rows, columns) = matrix.shape();
                let mut dense = scratch.take(&[rows, columns])?;
                matrix.decode_into(&mut dense)?;
                Ok(dense)
            }
        }
    }

    fn gradient(&self) -> Option<&Tensor> {
        match self {
            Self::Dense(dense) => dense.gradient.as_ref(),
            Self::Nf4(_) => None,
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

/// A low-rank adapter of one linear layer, as views of the flat fp32 parameters and gradients.
#[derive(Debug)]
pub struct LowRank {
    /// A (r, in).
    pub a: Tensor,
    /// B (out, r).
    pub b: Tensor,
    /// The gradient of A, added to by every backward.
    pub gradient_a: Tensor,
    /// The gradient of B, added to by every backward.
    pub gradient_b: Tensor,
    /// s, PEFT's `scaling`.
    pub scaling: f64,
}

/// A linear layer.
#[derive(Debug)]
pub struct Linear {
    /// W (out, in).
    pub weight: Weight,
    /// b (out).
    pub bias: Option<Dense>,
}

impl Linear {
    /// x (M, in) to y (M, out), and s·x·Aᵀ (M, r), which the backward needs where there is an adapter.
    pub fn forward(
        &self,
        x: &Tensor,
        adapter: Option<&LowRank>,
        scratch: &mut Scratch,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let kind = x.f_kind()?;
        let (mut y, inner) = if let Some(adapter) = adapter {
            let inner = x
                .f_mm(&adapter.a.f_to_kind(kind)?.f_tr()?)?
                .f_mul_scalar_(adapter.scaling)?; // (M, r)
            let mut y = inner.f_mm(&adapter.b.f_to_kind(kind)?.f_tr()?)?; // (M, out)
            let _ = y.f_addmm_(x, &self.weight.dense(scratch)?.f_tr()?)?;
            (y, Some(inner))
        } else {
            (x.f_mm(&self.weight.dense(scratch)?.f_tr()?)?, None)
        };
        if let Some(bias) = &self.bias {
            let _ = y.f_add_(&bias.value)?;
        }
        Ok((y, inner))
    }

    /// The gradient for x (M, in) from that for y (M, out), added to `dx` if there is one; gradients of what is trained are
    /// added to their own. `inner` is what the forward returned.
    pub fn backward(
        &self,
        x: &Tensor,
        adapter: Option<(&LowRank, &Tensor)>,
        dy: &Tensor,
        dx: Option<Tensor>,
        scratch: &mut Scratch,
    ) -> Result<Tensor> {
        if let Some(gradient) = self.weight.gradient() {
            add_product(gradient, &dy.f_tr()?, x)?;
        }
        if let Some(gradient) = self.bias.as_ref().and_then(|bias| bias.gradient.as_ref()) {
            let _ =
                gradient
                    .shallow_clone()
                    .f_add_(&dy.f_sum_dim_intlist(0, false, Kind::Float)?)?;
        }
        let mut dx = dx;
        if let Some((adapter, inner)) = adapter {
            let kind = x.f_kind()?;
            let d_inner = dy
                .f_mm(&adapter.b.f_to_kind(kind)?)?
                .f_mul_scalar_(adapter.scaling)?; // (M, r)
            add_product(&adapter.gradient_b, &dy.f_tr()?, inner)?;
            add_product(&adapter.gradient_a, &d_inner.f_tr()?, x)?;
            dx = Some(plus_product(dx, &d_inner, &adapter.a.f_to_kind(kind)?)?);
        }
        plus_product(dx, dy, &self.weight.dense(scratch)?)
    }
}

/// sum + left·right, in place.
fn plus_product(sum: Option<Tensor>, left: &Tensor, right: &Tensor) -> Result<Tensor> {
    Ok(match sum {
        Some(mut sum) => sum.f_addmm_(left, right)?,
        None => left.f_mm(right)?,
    })
}

/// gradient (fp32) += left·right.
pub(super) fn add_product(gradient: &Tensor, left: &Tensor, right: &Tensor) -> Result<()> {
    let mut gradient = gradient.shallow_clone();
    let _ = if left.f_kind()? == Kind::Float {
        gradient.f_addmm_(left, right)?
    } else {
        gradient.f_add_(&left.f_mm(right)?)?
    };
    Ok(())
}
