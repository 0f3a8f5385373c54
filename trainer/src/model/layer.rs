//! One layer: x + attention(norm(x)), then + feed-forward(norm(.)), and the same backwards.

use tch::Tensor;

use super::cache::LayerCache;
use super::{ModelConfig, Projection};
use crate::ops::linear::{Dense, Linear, LowRank, Scratch};
use crate::ops::rope::Rotation;
use crate::ops::{Result, attention, rms_norm, swiglu};

const COUNT: usize = Projection::ALL.len();

/// The adapters of a layer, by `Projection`.
pub(super) type Adapters = [Option<LowRank>; COUNT];

/// A layer without adapters.
pub(super) const NO_ADAPTERS: &Adapters = &[const { None }; COUNT];

/// The weights of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    /// Norms before attention and before the feed-forward part (H), fp32.
    pub(super) norms: [Dense; 2],
    /// By `Projection`.
    pub(super) linears: [Linear; COUNT],
}

/// What all layers of a pass share.
pub(super) struct Pass<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) rotation: Rotation,
    pub(super) scratch: &'a mut Scratch,
    /// B and T.
    pub(super) shape: (i64, i64),
}

/// What the backward of a layer needs. M = B·T.
#[derive(Debug)]
pub(super) struct Saved {
    norms: [rms_norm::Saved; 2],
    /// The input of the attention's linear layers (M, H).
    attention_input: Tensor,
    attention: attention::Saved,
    /// The heads' outputs, the input of o (M, heads·D).
    attended: Tensor,
    /// The input of gate and up (M, H).
    feed_forward_input: Tensor,
    activation: swiglu::Saved,
    /// The input of down (M, intermediate).
    activated: Tensor,
    /// What each adapter saved (M, r).
    inner: [Option<Tensor>; COUNT],
}

impl Layer {
    /// x (M, H) to the next layer's x. With a cache (B = 1), its earlier tokens are attended to and these are added.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        adapters: &Adapters,
        cache: Option<(&mut LayerCache, i64)>,
        pass: &mut Pass<'_>,
    ) -> Result<(Tensor, Saved)> {
        let ModelConfig {
            heads,
            key_value_heads,
            head_dim,
            rms_norm_epsilon,
            ..
        } = *pass.config;
        let (batch, length) = pass.shape;
        let mut inner = [const { None }; COUNT];
        let mut linear =
            |projection: Projection, x: &Tensor, scratch: &mut Scratch| -> Result<Tensor> {
                let index = projection as usize;
                let (y, saved) =
                    self.linears[index].forward(x, adapters[index].as_ref(), scratch)?;
                inner[index] = saved;
                Ok(y)
            };

        let (attention_input, first_norm) =
            rms_norm::forward(x, &self.norms[0].value, rms_norm_epsilon)?;
        let queries = linear(Projection::Query, &attention_input, pass.scratch)?
            .f_view([
                batch,
                length,
                key_value_heads,
                heads / key_value_heads,
                head_dim,
            ])?
            .f_permute([0, 2, 3, 1, 4])?; // (B, K, G, T, D)
        let queries = pass.rotation.forward(&queries)?;
        let by_key_head = |x: Tensor| {
            x.f_view([batch, length, key_value_heads, head_dim])?
                .f_transpose(1, 2)
        };
        let keys = by_key_head(linear(Projection::Key, &attention_input, pass.scratch)?)?; // (B, K, T, D)
        let keys = pass.rotation.forward(&keys)?;
        let values = by_key_head(linear(Projection::Value, &attention_input, pass.scratch)?)?
            .f_contiguous()?;
        let (keys, values) = match cache {
            Some((cache, start)) => cache.append(start, &keys, &values)?,
            None => (keys, values),
        };
        let (attended, attention) = attention::forward(queries, keys, values)?; // (M, heads·D)
        let x = linear(Projection::Output, &attended, pass.scratch)?.f_add_(x)?; // (M, H)

        let (feed_forward_input, second_norm) =
            rms_norm::forward(&x, &self.norms[1].value, rms_norm_epsilon)?;
        let gate = linear(Projection::Gate, &feed_forward_input, pass.scratch)?;
        let up = linear(Projection::Up, &feed_forward_input, pass.scratch)?;
        let (activated, activation) = swiglu::forward(gate, up)?; // (M, intermediate)
        let y = linear(Projection::Down, &activated, pass.scratch)?.f_add_(&x)?; // (M, H)

        let norms = [first_norm, second_norm];
        let saved = Saved {
            norms,
            attention_input,
            attention,
            attended,
            feed_forward_input,
            activation,
            activated,
            inner,
        };
        Ok((y, saved))
    }

    /// The gradient for the layer's input (M, H) from that for its output; gradients of what is trained are added to their
    /// own. Takes what was saved, so that its memory is free for the layer before.
    pub(super) fn backward(
        &self,
        saved: Saved,
        dy: Tensor,
        adapters: &Adapters,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let (batch, length) = pass.shape;
        let linear = |projection: Projection,
                      x: &Tensor,
                      dy: &Tensor,
                      dx: Option<Tensor>,
                      scratch: &mut Scratch| {
            let index = projection as usize;
            let adapter = adapters[index].as_ref().zip(saved.inner[index].as_ref());
            self.linears[index].backward(x, adapter, dy, dx, scratch)
        };

        let d_activated = linear(Projection::Down, &saved.activated, &dy, None, pass.scratch)?;
        let (d_gate, d_up) = swiglu::backward(&saved.activation, &d_activated)?;
        let dx = linear(
            Projection::Gate,
            &saved.feed_forward_input,
            &d_gate,
            None,
            pass.scratch,
        )?;
        let dx = linear(
            Projection::Up,
            &saved.feed_forward_input,
            &d_up,
            Some(dx),
            pass.scratch,
        )?;
        let norm = &self.norms[1];
        let mut dy = rms_norm::backward(&saved.norms[1], &norm.value, &dx, norm.gradient.as_ref())?
            .f_add_(&dy)?;

        let d_attended = linear(Projection::Output, &saved.attended, &dy, None, pass.scratch)?;
        let gradients = attention::backward(&saved.attention, &d_attended)?;
        let d_queries = pass
            .rotation
            .backward(&gradients.queries)?
            .f_permute([0, 3, 1, 2, 4])?;
        let d_keys = pass.rotation.backward(&gradients.keys)?.f_transpose(1, 2)?;
        let d_values = gradients.values.f_transpose(1, 2)?;
        let mut dx = None;
        let parts = [
            (Projection::Query, d_queries),
            (Projection::Key, d_keys),
            (Projection::Value, d_values),
        ];
        for (projection, gradient) in parts {
            let gradient = gradient.f_reshape([batch * length, -1])?;
            dx = Some(linear(
                projection,
                &saved.attention_input,
                &gradient,
                dx,
                pass.scratch,
            )?);
        }
        if let Some(dx) = dx {
            let norm = &self.norms[0];
            let dx = rms_norm::backward(&saved.norms[0], &norm.value, &dx, norm.gradient.as_ref())?;
            let _ = dy.f_add_(&dx)?;
        }
        Ok(dy)
    }
}
