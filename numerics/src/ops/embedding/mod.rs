//! The look-up of token vectors.

use tch::{Kind, Tensor};

use super::Result;
use super::trained::Gradient;

/// Rows of `table` (V, H) for tokens (B, T), as (B·T, H) in `kind`, times a factor that is rounded to that type (as Gemma's is).
pub fn forward(
    table: &Tensor,
    tokens: &Tensor,
    kind: Kind,
    multiplier: Option<f64>,
) -> Result<Tensor> {
    let mut rows = table
        .f_index_select(0, &tokens.f_reshape([-1])?)?
        .f_to_kind(kind)?;
    if let Some(multiplier) = multiplier {
        rows = rows.f_mul_(&Tensor::from(multiplier).f_to_kind(kind)?)?;
    }
    Ok(rows)
}

/// Adds the gradient `dy` (B·T, H) of what `forward` gave to that of the table, `gradient` (V, H) in fp32.
pub fn backward(
    dy: &Tensor,
    tokens: &Tensor,
    gradient: &Gradient,
    multiplier: Option<f64>,
) -> Result<()> {
    let rows = gradient.size()[0];
    let factor = match multiplier {
        None => None,
        Some(multiplier) => Some(Tensor::from(multiplier).f_to_kind(dy.f_kind()?)?),
    };
    let mut dy = dy.f_to_kind(Kind::Float)?;
    if let Some(factor) = factor {
        dy = dy.f_mul(&factor.f_to_kind(Kind::Float)?)?;
    }
    // Not index_add: with repeated tokens its order of summation is not promised.
    let sum = Tensor::f_embedding_dense_backward(&dy, &tokens.f_reshape([-1])?, rows, -1, false)?;
    gradient.add(&sum)
}
