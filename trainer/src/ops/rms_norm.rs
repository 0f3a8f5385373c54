//! Root mean square normalisation, y = x / rms(x) · weight, in fp32 whatever the type of the activations.
//!
//! Zhang and Sennrich, 2019; transformers' `LlamaRMSNorm`.

use tch::{Kind, Tensor};

use super::Result;

/// What the backward needs.
#[derive(Debug)]
pub struct Saved {
    /// The input (M, H).
    input: Tensor,
    /// 1 / rms of each row (M, 1), fp32.
    inverse: Tensor,
}

/// x (M, H), weight (H) in fp32; returns y (M, H) in the type of x.
pub fn forward(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<(Tensor, Saved)> {
    let wide = x.f_to_kind(Kind::Float)?; // (M, H)
    let inverse = wide
        .f_mul(&wide)?
        .f_mean_dim(-1, true, Kind::Float)?
        .f_add_scalar(epsilon)?
        .f_rsqrt()?; // (M, 1)
    let y = wide
        .f_mul(&inverse)?
        .f_mul(weight)?
        .f_to_kind(x.f_kind()?)?; // (M, H)
    let input = x.shallow_clone();
    Ok((y, Saved { input, inverse }))
}

/// The gradient for x (M, H) from that for y; `weight_gradient` (H) in fp32 is added to.
pub fn backward(
    saved: &Saved,
    weight: &Tensor,
    dy: &Tensor,
    weight_gradient: Option<&Tensor>,
) -> Result<Tensor> {
    let normal = saved.input.f_to_kind(Kind::Float)?.f_mul(&saved.inverse)?; // (M, H)
    let dy = dy.f_to_kind(Kind::Float)?;
    if let Some(gradient) = weight_gradient {
        let _ = gradient
            .shallow_clone()
            .f_add_(
                &dy.f_mul(&normal)?
                    .f_sum_dim_intlist(0, false, Kind::Float)?,
            )?;
    }
    // d/dx of x·inverse: the part of the gradient along x itself is taken out.
    let d = dy.f_mul(weight)?; // (M, H)
    let along = d.f_mul(&normal)?.f_mean_dim(-1, true, Kind::Float)?; // (M, 1)
    let dx = d.f_sub(&normal.f_mul(&along)?)?.f_mul(&saved.inverse)?;
    Ok(dx.f_to_kind(saved.input.f_kind()?)?)
}
