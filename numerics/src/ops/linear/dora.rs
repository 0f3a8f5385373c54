//! Linear layers whose adapters have DoRA's magnitudes (Liu et al., 2024): row i of the weight is m[i] · (W + s·B·A)[i] / ‖(W + s·B·A)[i]‖.
//!
//! Magnitudes act behind the sum of products, so in bf16 one shows once it is more than 2^-9 of itself off the norm of its row. The
//! formulas with and without dropout are those of PEFT's `DoraLinearLayer`. Layers are computed one by one, and block by block.

use tch::{Kind, Tensor};

use super::cpu::{self, Added, BIAS, narrow, times};
use super::{Linear, RowBlock, SavedAt, SavedLowRank, Scratch};
use crate::ops::low_rank::{LowRank, Magnitude};
use crate::ops::{Error, Result};

/// What the backward of the magnitudes needs.
#[derive(Debug)]
pub(super) struct SavedDora {
    /// x·(W + s·B·A)ᵀ (rows, out), of the x that dropout left.
    product: Tensor,
    /// The norms of the rows of W + s·B·A (out), fp32.
    norms: Tensor,
}

/// Whether some adapter has magnitudes.
pub(super) fn any(blocks: &[RowBlock<'_>]) -> bool {
    let adapters = blocks.iter().flat_map(|block| &block.adapters);
    adapters
        .flatten()
        .any(|adapter| adapter.magnitude.is_some())
}

/// y of one layer (M, out), and what the adapter of each block saved.
pub(super) fn forward(
    layer: &Linear,
    x: &Tensor,
    blocks: &[RowBlock<'_>],
    scratch: &mut Scratch,
) -> Result<(Tensor, Vec<Option<SavedLowRank>>)> {
    let (mut ys, mut saved) = (Vec::new(), Vec::new());
    let mut start = 0;
    for block in blocks {
        let rows = start..start + block.rows as usize;
        start = rows.end;
        let x = narrow(x, &rows)?;
        let (y, of_block) = match block.adapters[0].and_then(with_magnitude) {
            Some((adapter, magnitude)) => {
                let (y, saved) = forward_block(layer, &x, block, (adapter, magnitude), scratch)?;
                (y, Some(saved))
            }
            None => {
                let of_block = std::slice::from_ref(block);
                let (mut ys, saved) = cpu::forward(&[layer], &x, of_block, BIAS, scratch)?;
                (ys.remove(0), saved.0.into_iter().flatten().next().flatten())
            }
        };
        ys.push(y);
        saved.push(of_block);
    }
    let y = match ys.len() {
        1 => ys.remove(0),
        _ => Tensor::f_cat(&ys, 0)?,
    };
    Ok((y, saved))
}

/// The gradient for x (M, in) from that of one layer's y (M, out).
pub(super) fn backward(
    layer: &Linear,
    x: &Tensor,
    dy: &Tensor,
    blocks: &[RowBlock<'_>],
    saved: SavedAt<'_>,
    scratch: &mut Scratch,
) -> Result<Tensor> {
    let mut dxs = Vec::new();
    let mut start = 0;
    for (index, block) in blocks.iter().enumerate() {
        let rows = start..start + block.rows as usize;
        start = rows.end;
        let (x, dy) = (narrow(x, &rows)?, narrow(dy, &rows)?);
        let saved = SavedAt {
            block: index,
            ..saved
        };
        dxs.push(match block.adapters[0].and_then(with_magnitude) {
            Some(adapter) => backward_block(layer, (&x, &dy), block, adapter, saved, scratch)?,
            None => {
                let dys = [dy];
                let of_block = std::slice::from_ref(block);
                cpu::backward(&[layer], &x, (&dys, None), of_block, saved, scratch)?
            }
        });
    }
    Ok(match dxs.len() {
        1 => dxs.remove(0),
        _ => Tensor::f_cat(&dxs, 0)?,
    })
}

fn with_magnitude(adapter: &LowRank) -> Option<(&LowRank, &Magnitude)> {
    Some((adapter, adapter.magnitude.as_ref()?))
}

fn forward_block(
    layer: &Linear,
    x: &Tensor,
    block: &RowBlock<'_>,
    (adapter, magnitude): (&LowRank, &Magnitude),
    scratch: &mut Scratch,
) -> Result<(Tensor, SavedLowRank)> {
    let kept = match block.dropout(adapter) {
        Some(dropout) => Some(dropout.apply(x)?),
        None => None,
    };
    let input = kept.as_ref().unwrap_or(x);
    let undropped = RowBlock {
        dropout: None,
        ..block.clone()
    };
    let without_bias = Added {
        bias: false,
        ..BIAS
    };
    let (mut products, saved) = cpu::forward(&[layer], input, &[undropped], without_bias, scratch)?;
    let product = products.remove(0);
    let norms = adapter.known_norms(magnitude, layer.id, || layer.weight.dense(scratch))?;
    let factor = magnitude.value.f_div(&norms)?; // (out)
    let mut y = scaled(&product, &factor)?;
    if let Some(kept) = &kept {
        // Only what dropout left is rescaled: x·Wᵀ + (factor - 1)·kept·Wᵀ + factor·low.
        y = y.f_sub_(&times(kept, &layer.weight, true, scratch)?)?;
        y = y.f_add_(&times(x, &layer.weight, true, scratch)?)?;
    }
    if let Some(bias) = &layer.bias {
        let _ = y.f_add_(&bias.value)?;
    }
    let saved = saved.0.into_iter().flatten().next().flatten();
    let saved = saved.ok_or_else(|| Error::Input("an adapter that saved nothing".to_owned()))?;
    let dora = Some(SavedDora { product, norms });
    Ok((y, SavedLowRank { dora, ..saved }))
}

fn backward_block(
    layer: &Linear,
    (x, dy): (&Tensor, &Tensor),
    block: &RowBlock<'_>,
    (adapter, magnitude): (&LowRank, &Magnitude),
    saved: SavedAt<'_>,
    scratch: &mut Scratch,
) -> Result<Tensor> {
    let Some(dora) = &saved.of(0, 0)?.dora else {
        return Err(Error::Input(
            "a backward of magnitudes whose forward saved nothing".to_owned(),
        ));
    };
    add_magnitude_gradient(magnitude, dora, dy)?;
    let factor = magnitude.value.f_div(&dora.norms)?;
    let d_product = scaled(dy, &factor)?; // (rows, out)
    let undropped = [RowBlock {
        dropout: None,
        ..block.clone()
    }];
    let layers = [layer];
    let Some(dropout) = block.dropout(adapter) else {
        let dys = [d_product];
        return cpu::backward(&layers, x, (&dys, None), &undropped, saved, scratch);
    };
    let kept = dropout.apply(x)?;
    let dys = ([d_product.f_sub(dy)?], [d_product]);
    let d_kept = cpu::backward(
        &layers,
        &kept,
        (&dys.0, Some(&dys.1)),
        &undropped,
        saved,
        scratch,
    )?;
    let mut dx = times(dy, &layer.weight, false, scratch)?;
    Ok(dx.f_add_(&dropout.apply(&d_kept)?)?)
}

/// Each column of x (rows, out) times its factor (out, fp32), in the type of x.
fn scaled(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    Ok(x.f_mul(factor)?.f_to_kind(x.f_kind()?)?)
}

/// The norms are constants here, as in the paper's section 4.3.
fn add_magnitude_gradient(magnitude: &Magnitude, saved: &SavedDora, dy: &Tensor) -> Result<()> {
    let along = dy
        .f_to_kind(Kind::Float)?
        .f_mul(&saved.product)?
        .f_sum_dim_intlist(0, false, Kind::Float)?
        .f_div_(&saved.norms)?;
    magnitude.gradient.add(&along)
}
