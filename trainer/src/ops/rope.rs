//! Rotary position embedding in the half-split form of transformers: the pair (x_i, x_{i+D/2}) is turned by position x
//! theta^(-2i/D).
//!
//! Su et al., 2021. Angles are fp32; cos and sin are rounded to the type of the activations, as transformers does.

use tch::{Device, Kind, Tensor};

use super::Result;

/// cos and sin of every position of a pass, each (T, D/2).
#[derive(Debug)]
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// The angles of positions `start..start + length`. The formula is evaluated by the same fp32 operations as in the
    /// reference, because a frequency's last bit grows with the position.
    pub fn new(head_dim: i64, theta: f64, start: i64, length: i64, kind: Kind) -> Result<Self> {
        let options = (Kind::Float, Device::Cpu);
        let exponents =
            Tensor::f_arange_start_step(0, head_dim, 2, options)?.f_div_scalar(head_dim)?; // (D/2)
        let frequencies = Tensor::f_pow_scalar(theta, &exponents)?.f_reciprocal()?;
        let positions = Tensor::f_arange_start(start, start + length, options)?; // (T)
        let angles = positions.f_outer(&frequencies)?; // (T, D/2)
        Ok(Self {
            cos: angles.f_cos()?.f_to_kind(kind)?,
            sin: angles.f_sin()?.f_to_kind(kind)?,
        })
    }

    /// Turns x (…, T, D); the result is contiguous.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        turn(x, &self.cos, &self.sin)
    }

    /// The gradient for x (…, T, D) from that of the turned x: the turn back.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        turn(dy, &self.cos, &self.sin.f_neg()?)
    }
}

fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.size()[x.dim() - 1] / 2;
    let (first, second) = (x.f_narrow(-1, 0, half)?, x.f_narrow(-1, half, half)?);
    let turned = [
        first.f_mul(cos)?.f_sub(&second.f_mul(sin)?)?,
        second.f_mul(cos)?.f_add(&first.f_mul(sin)?)?,
    ];
    Ok(Tensor::f_cat(&turned, -1)?)
}
