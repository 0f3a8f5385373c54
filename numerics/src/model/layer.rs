//! One layer: x + attention(norm(x)), then + feed-forward(norm(.)), and the same backwards. Families put norms also, or only,
//! after a branch, and some shrink it before it is added.

use tch::Tensor;

use super::cache::LayerCache;
use super::feed_forward::{self, SavedFeedForward};
use super::linears::Linears;
use super::pass::Pass;
use super::self_attention::{SavedSelfAttention, SelfAttention};
use crate::ops::Result;
use crate::ops::linear::Dense;
use crate::ops::rms_norm::{self, SavedNorm};

/// The weights of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    /// Around the attention and around the feed-forward part.
    pub(super) norms: [Norms; 2],
    pub(super) attention: SelfAttention,
    pub(super) linears: Linears,
}

/// The norms around a branch (H each), fp32.
#[derive(Debug)]
pub(super) struct Norms {
    pub(super) before: Option<Dense>,
    pub(super) after: Option<Dense>,
}

/// What the backward of a layer needs. M = B·T.
#[derive(Debug)]
pub(super) struct SavedLayer {
    norms: [SavedNorms; 2],
    /// The input of the attention's linear layers (M, H).
    attention_input: Tensor,
    attention: SavedSelfAttention,
    /// The input of gate and up (M, H).
    feed_forward_input: Tensor,
    feed_forward: SavedFeedForward,
}

#[derive(Debug)]
struct SavedNorms {
    before: Option<SavedNorm>,
    after: Option<SavedNorm>,
}

impl Layer {
    /// x (M, H) to the next layer's x. With a cache (B = 1), its earlier tokens are attended to and these are added.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        cache: Option<(&mut LayerCache, i64)>,
        pass: &mut Pass<'_>,
    ) -> Result<(Tensor, SavedLayer)> {
        let linears = &self.linears;
        let [around_attention, around_feed_forward] = &self.norms;

        let (attention_input, before) = around_attention.before(x, pass)?;
        let (y, attention) = self
            .attention
            .forward(&attention_input, linears, cache, pass)?;
        let (x, after) = around_attention.join(x, y, pass)?;
        let of_attention = SavedNorms { before, after };

        let (feed_forward_input, before) = around_feed_forward.before(&x, pass)?;
        let (y, feed_forward) = feed_forward::forward(&feed_forward_input, linears, pass)?;
        let (x, after) = around_feed_forward.join(&x, y, pass)?;
        let of_feed_forward = SavedNorms { before, after };

        let saved = SavedLayer {
            norms: [of_attention, of_feed_forward],
            attention_input,
            attention,
            feed_forward_input,
            feed_forward,
        };
        Ok((x, saved))
    }

    /// The gradient for the layer's input (M, H) from that for its output; gradients of what is trained are added to their
    /// own. Takes what was saved, so that its memory is free for the layer before.
    pub(super) fn backward(
        &self,
        saved: SavedLayer,
        dy: &Tensor,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let SavedLayer {
            norms: [of_attention, of_feed_forward],
            attention_input,
            attention,
            feed_forward_input,
            feed_forward,
        } = saved;
        let linears = &self.linears;
        let [around_attention, around_feed_forward] = &self.norms;

        let d_branch = around_feed_forward.d_branch(&of_feed_forward, dy, pass)?;
        let dx =
            feed_forward::backward(&feed_forward, &feed_forward_input, &d_branch, linears, pass)?;
        let dy = around_feed_forward.d_before(&of_feed_forward, dx, dy)?;

        let d_branch = around_attention.d_branch(&of_attention, &dy, pass)?;
        let dx = self
            .attention
            .backward(&attention, &attention_input, &d_branch, linears, pass)?;
        around_attention.d_before(&of_attention, dx, &dy)
    }
}

impl Norms {
    /// What the branch takes from the residual stream x (M, H).
    fn before(&self, x: &Tensor, pass: &Pass<'_>) -> Result<(Tensor, Option<SavedNorm>)> {
        let Some(norm) = &self.before else {
            return Ok((x.shallow_clone(), None));
        };
        let (y, saved) = rms_norm::forward(x, &norm.value, pass.config.norm())?;
        Ok((y, Some(saved)))
    }

    /// The residual stream x (M, H) with what the branch gave. Writes over `branch` where nothing saved it.
    fn join(
        &self,
        x: &Tensor,
        branch: Tensor,
        pass: &Pass<'_>,
    ) -> Result<(Tensor, Option<SavedNorm>)> {
        let (mut branch, saved) = match &self.after {
            None => (branch, None),
            Some(norm) => {
                let (y, saved) = rms_norm::forward(&branch, &norm.value, pass.config.norm())?;
                (y, Some(saved))
            }
        };
        if let Some(multiplier) = pass.config.wiring.residual_multiplier {
            branch = branch.f_mul_scalar_(multiplier)?;
        }
        Ok((branch.f_add_(x)?, saved))
    }

    /// The gradient for what the branch gave from that of the residual stream behind it.
    fn d_branch(&self, saved: &SavedNorms, dy: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let dy = match pass.config.wiring.residual_multiplier {
            None => dy.shallow_clone(),
            Some(multiplier) => dy.f_mul_scalar(multiplier)?,
        };
        Ok(match (&self.after, &saved.after) {
            (Some(norm), Some(saved)) => rms_norm::backward(saved, &dy, norm.gradient.as_ref())?,
            _ => dy,
        })
    }

    /// The gradient for the residual stream before the branch, from that for the branch's input and that behind the branch.
    fn d_before(&self, saved: &SavedNorms, dx: Tensor, dy: &Tensor) -> Result<Tensor> {
        let mut dx = match (&self.before, &saved.before) {
            (Some(norm), Some(saved)) => rms_norm::backward(saved, &dx, norm.gradient.as_ref())?,
            _ => dx,
        };
        Ok(dx.f_add_(dy)?)
    }
}
