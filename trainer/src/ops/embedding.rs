//! The look-up of token vectors.

use tch::{Kind, Tensor};

use super::Result;

/// Rows of `table` (V, H) for tokens (B, T), as (B·T, H) in `kind`.
pub fn forward(table: &Tensor, tokens: &Tensor, kind: Kind) -> Result<Tensor> {
    Ok(table
        .f_index_select(0, &tokens.f_reshape([-1])?)?
        .f_to_kind(kind)?)
}

/// Adds the gradient `dy` (B·T, H) of the looked-up rows to that of the table, `gradient` (V, H) in fp32.
pub fn backward(dy: &Tensor, tokens: &Tensor, gradient: &Tensor) -> Result<()> {
    let rows = gradient.size()[0];
    let dy = dy.f_to_kind(Kind::Float)?;
    // Not index_add: with repeated tokens its order of summation is not promised.
    let sum = Tensor::f_embedding_dense_backward(&dy, &tokens.f_reshape([-1])?, rows, -1, false)?;
    let _ = gradient.shallow_clone().f_add_(&sum)?;
    Ok(())
}
