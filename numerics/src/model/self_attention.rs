//! The attention of a layer: projections, norms of queries and keys, rotation, attention, and the way back.

use tch::Tensor;

use super::cache::LayerCache;
use super::linears::Linears;
use super::pass::Pass;
use crate::architecture::{ModelConfig, Projection};
use crate::ops::attention::{self, AttentionSettings, SavedAttention};
use crate::ops::linear::{Dense, SavedLinears};
use crate::ops::random::Dropout;
use crate::ops::rms_norm::{self, NormSettings, SavedNorm};
use crate::ops::{Error, Result};

/// What a layer's attention has beside its linear layers.
#[derive(Debug)]
pub(super) struct SelfAttention {
    /// The module's name, by which its dropout is drawn.
    pub(super) module: String,
    /// The norms of queries and of keys, fp32.
    pub(super) norms: Option<[Dense; 2]>,
    pub(super) settings: AttentionSettings,
    /// Which of the pass's rotations.
    pub(super) rotation: usize,
}

/// What the backward needs.
#[derive(Debug)]
pub(super) struct SavedSelfAttention {
    projections: SavedLinears,
    norms: Option<[SavedNorm; 2]>,
    attention: SavedAttention,
    /// The heads' outputs, the input of o (M, heads·D).
    attended: Tensor,
    output: SavedLinears,
}

/// Those that share the attention's input.
const SEPARATE: [Projection; 3] = [Projection::Query, Projection::Key, Projection::Value];

impl SelfAttention {
    /// x (M, H) to (M, H). With a cache (B = 1), its earlier tokens are attended to and these are added.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        linears: &Linears,
        cache: Option<(&mut LayerCache, i64)>,
        pass: &mut Pass<'_>,
    ) -> Result<(Tensor, SavedSelfAttention)> {
        let ModelConfig {
            heads,
            key_value_heads,
            head_dim,
            ..
        } = *pass.config;
        let (batch, length) = pass.shape;
        let ([queries, keys, values], projections) = project(x, linears, pass)?;
        let (queries, keys, norms) = match &self.norms {
            None => (queries, keys, None),
            Some([query_norm, key_norm]) => {
                let (queries, of_queries) = normed(&queries, query_norm, pass.config.norm())?;
                let (keys, of_keys) = normed(&keys, key_norm, pass.config.norm())?;
                (queries, keys, Some([of_queries, of_keys]))
            }
        };
        let rotation = &pass.rotations[self.rotation];
        let groups = heads / key_value_heads;
        let queries = rotation.forward(&queries, batch, heads)?.f_view([
            batch,
            key_value_heads,
            groups,
            length,
            head_dim,
        ])?; // (B, K, G, T, D)
        let keys = rotation.forward(&keys, batch, key_value_heads)?; // (B, K, T, D)
        // Of a fused projection a copy, so that the rest of it is not kept.
        let values = values
            .f_contiguous()?
            .f_view([batch, length, key_value_heads, head_dim])?
            .f_transpose(1, 2)?; // (B, K, T, D)
        let (keys, values) = match cache {
            Some((cache, start)) => cache.append(start, &keys, &values)?,
            None => (keys, values),
        };
        let settings = AttentionSettings {
            dropout: pass.attention_draw().map(|draw| Dropout {
                rate: pass.config.attention_dropout,
                key: draw.key(&self.module),
            }),
            ..self.settings
        };
        let (attended, attention) =
            attention::forward(queries, keys, values, settings, pass.documents)?; // (M, heads·D)
        let (y, output) = linears.forward_one(Projection::Output, &attended, pass)?;
        let saved = SavedSelfAttention {
            projections,
            norms,
            attention,
            attended,
            output,
        };
        Ok((y, saved))
    }

    /// The gradient for x (M, H) from that of the result (M, H).
    pub(super) fn backward(
        &self,
        saved: &SavedSelfAttention,
        x: &Tensor,
        dy: &Tensor,
        linears: &Linears,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let (batch, length) = pass.shape;
        let (output, dys) = ([Projection::Output], [dy.shallow_clone()]);
        let d_attended = linears.backward(&output, &saved.attended, &dys, &saved.output, pass)?;
        let gradients = attention::backward(&saved.attention, &d_attended)?;
        let rotation = &pass.rotations[self.rotation];
        let ModelConfig {
            heads, head_dim, ..
        } = *pass.config;
        let by_head = gradients.queries.f_view([batch, heads, length, head_dim])?;
        let mut d_queries = rotation.backward(&by_head)?;
        let mut d_keys = rotation.backward(&gradients.keys)?;
        let d_values = gradients.values;
        if let (Some([query_norm, key_norm]), Some([of_queries, of_keys])) =
            (&self.norms, &saved.norms)
        {
            d_queries = d_normed(&d_queries, of_queries, query_norm)?;
            d_keys = d_normed(&d_keys, of_keys, key_norm)?;
        }
        if pass.config.wiring.fused {
            let together = [Tensor::f_cat(&[d_queries, d_keys, d_values], 1)?];
            let projection = [Projection::QueryKeyValue];
            return linears.backward(&projection, x, &together, &saved.projections, pass);
        }
        let dys = [d_queries, d_keys, d_values];
        linears.backward(&SEPARATE, x, &dys, &saved.projections, pass)
    }
}

/// Queries (M, heads·D), keys and values (M, key heads·D).
fn project(
    x: &Tensor,
    linears: &Linears,
    pass: &mut Pass<'_>,
) -> Result<([Tensor; 3], SavedLinears)> {
    if !pass.config.wiring.fused {
        let (ys, saved) = linears.forward(&SEPARATE, x, pass)?;
        let three = <[Tensor; 3]>::try_from(ys);
        let three = three.map_err(|ys| {
            Error::Input(format!("{} results of q, k and v, expected 3", ys.len()))
        })?;
        return Ok((three, saved));
    }
    let (together, saved) = linears.forward_one(Projection::QueryKeyValue, x, pass)?;
    let queries = pass.config.heads * pass.config.head_dim;
    let keys = pass.config.key_value_heads * pass.config.head_dim;
    let parts = [
        together.f_narrow(1, 0, queries)?,
        together.f_narrow(1, queries, keys)?,
        together.f_narrow(1, queries + keys, keys)?,
    ];
    Ok((parts, saved))
}

/// x (M, n·width) normed in parts of the norm's width.
fn normed(x: &Tensor, norm: &Dense, settings: NormSettings) -> Result<(Tensor, SavedNorm)> {
    let parts = x.f_contiguous()?.f_view([-1, norm.value.numel() as i64])?;
    let (y, saved) = rms_norm::forward(&parts, &norm.value, settings)?;
    Ok((y.f_view_as(x)?, saved))
}

fn d_normed(dy: &Tensor, saved: &SavedNorm, norm: &Dense) -> Result<Tensor> {
    let parts = dy.f_contiguous()?.f_view([-1, norm.value.numel() as i64])?;
    let dx = rms_norm::backward(saved, &parts, norm.gradient.as_ref())?;
    Ok(dx.f_view_as(dy)?)
}
