//! The attention of a layer: projections, norms of queries and keys, rotation, attention, and the way back.

use tch::Tensor;

use super::cache::LayerCache;
use super::layer::Pass;
use super::linears::{Adapted, Inner};
use super::{ModelConfig, Projection};
use crate::ops::attention::{self, AttentionSettings, SavedAttention};
use crate::ops::linear::Dense;
use crate::ops::random::Dropout;
use crate::ops::{Result, rms_norm};

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
pub(super) struct Saved {
    norms: Option<[rms_norm::Saved; 2]>,
    attention: SavedAttention,
    /// The heads' outputs, the input of o (M, heads·D).
    attended: Tensor,
}

impl SelfAttention {
    /// x (M, H) to (M, H). With a cache (B = 1), its earlier tokens are attended to and these are added.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        linears: Adapted<'_>,
        inner: &mut Inner,
        cache: Option<(&mut LayerCache, i64)>,
        pass: &mut Pass<'_>,
    ) -> Result<(Tensor, Saved)> {
        let ModelConfig {
            heads,
            key_value_heads,
            head_dim,
            ..
        } = *pass.config;
        let (batch, length) = pass.shape;
        let [queries, keys, values] = project(x, linears, inner, pass)?;
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
            dropout: pass.draw.map(|draw| Dropout {
                rate: pass.config.attention_dropout,
                key: draw.key(&self.module),
            }),
            ..self.settings
        };
        let (attended, attention) =
            attention::forward(queries, keys, values, settings, pass.documents)?; // (M, heads·D)
        let y = linears.forward(Projection::Output, &attended, inner, pass.scratch)?;
        let saved = Saved {
            norms,
            attention,
            attended,
        };
        Ok((y, saved))
    }

    /// The gradient for x (M, H) from that of the result (M, H).
    pub(super) fn backward(
        &self,
        saved: &Saved,
        x: &Tensor,
        dy: &Tensor,
        linears: Adapted<'_>,
        inner: &Inner,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let (batch, length) = pass.shape;
        let d_attended = linears.backward(
            Projection::Output,
            &saved.attended,
            dy,
            None,
            inner,
            pass.scratch,
        )?;
        let gradients = attention::backward(&saved.attention, &d_attended)?;
        let rotation = &pass.rotations[self.rotation];
        let ModelConfig {
            heads, head_dim, ..
        } = *pass.config;
        let by_head = gradients.queries.f_view([batch, heads, length, head_dim])?;
        let mut d_queries = rotation.backward(&by_head)?;
        let mut d_keys = rotation.backward(&gradients.keys)?;
        let d_values = gradients
            .values
            .f_transpose(1, 2)?
            .f_reshape([batch * length, -1])?;
        if let (Some([query_norm, key_norm]), Some([of_queries, of_keys])) =
            (&self.norms, &saved.norms)
        {
            d_queries = d_normed(&d_queries, of_queries, query_norm)?;
            d_keys = d_normed(&d_keys, of_keys, key_norm)?;
        }
        if pass.config.wiring.fused {
            let together = Tensor::f_cat(&[d_queries, d_keys, d_values], 1)?;
            let projection = Projection::QueryKeyValue;
            return linears.backward(projection, x, &together, None, inner, pass.scratch);
        }
        let dx = linears.backward(Projection::Query, x, &d_queries, None, inner, pass.scratch)?;
        let dx = linears.backward(Projection::Key, x, &d_keys, Some(dx), inner, pass.scratch)?;
        linears.backward(
            Projection::Value,
            x,
            &d_values,
            Some(dx),
            inner,
            pass.scratch,
        )
    }
}

/// Queries (M, heads·D), keys and values (M, key heads·D).
fn project(
    x: &Tensor,
    linears: Adapted<'_>,
    inner: &mut Inner,
    pass: &mut Pass<'_>,
) -> Result<[Tensor; 3]> {
    if !pass.config.wiring.fused {
        let mut linear = |projection| linears.forward(projection, x, inner, pass.scratch);
        return Ok([
            linear(Projection::Query)?,
            linear(Projection::Key)?,
            linear(Projection::Value)?,
        ]);
    }
    let together = linears.forward(Projection::QueryKeyValue, x, inner, pass.scratch)?;
    let queries = pass.config.heads * pass.config.head_dim;
    let keys = pass.config.key_value_heads * pass.config.head_dim;
    Ok([
        together.f_narrow(1, 0, queries)?,
        together.f_narrow(1, queries, keys)?,
        together.f_narrow(1, queries + keys, keys)?,
    ])
}

/// x (M, n·width) normed in parts of the norm's width.
fn normed(
    x: &Tensor,
    norm: &Dense,
    settings: rms_norm::Settings,
) -> Result<(Tensor, rms_norm::Saved)> {
    let parts = x.f_contiguous()?.f_view([-1, norm.value.numel() as i64])?;
    let (y, saved) = rms_norm::forward(&parts, &norm.value, settings)?;
    Ok((y.f_view_as(x)?, saved))
}

fn d_normed(dy: &Tensor, saved: &rms_norm::Saved, norm: &Dense) -> Result<Tensor> {
    let parts = dy.f_contiguous()?.f_view([-1, norm.value.numel() as i64])?;
    let dx = rms_norm::backward(saved, &parts, norm.gradient.as_ref())?;
    Ok(dx.f_view_as(dy)?)
}
