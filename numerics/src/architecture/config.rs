//! The shape of a model, and what its operations are told of it.

use tch::Kind;

use super::wiring::{Windows, Wiring};
use crate::ops::attention::AttentionSettings;
use crate::ops::rms_norm::NormSettings;
use crate::ops::rope::{Rope, Scaling};
use crate::ops::{Error, Result};

/// The shape of a model. Filled from `config.json` or from a GGUF file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// As the model's own configuration names it, for people: `LlamaForCausalLM`.
    pub architecture: String,
    /// V.
    pub vocabulary_size: i64,
    /// H.
    pub hidden_size: i64,
    /// The width within the gated activation.
    pub intermediate_size: i64,
    /// The number of layers.
    pub layers: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; divides `heads`.
    pub key_value_heads: i64,
    /// D.
    pub head_dim: i64,
    /// Added to the mean square in the norms.
    pub rms_norm_epsilon: f64,
    /// How positions turn queries and keys.
    pub rope: Rope,
    /// The layers that see only the last tokens, if any.
    pub windows: Option<Windows>,
    /// The longest sequence that the model was made for.
    pub max_position_embeddings: i64,
    /// The probability by which training leaves out a token that another attends to; below 1.
    pub attention_dropout: f64,
    /// Whether the output matrix is the embedding.
    pub tied_embeddings: bool,
    /// Which linear layers have biases.
    pub biases: Biases,
    /// What tells the family from others.
    pub wiring: Wiring,
}

/// Which linear layers have biases.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Biases {
    /// q, k and v.
    pub attention: bool,
    /// o.
    pub output: bool,
    /// gate, up and down.
    pub feed_forward: bool,
}

impl ModelConfig {
    /// Refuses a shape that no model can have.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("vocabulary size", self.vocabulary_size),
            ("hidden size", self.hidden_size),
            ("intermediate size", self.intermediate_size),
            ("number of layers", self.layers),
            ("number of heads", self.heads),
            ("number of key and value heads", self.key_value_heads),
            ("head size", self.head_dim),
            ("longest sequence", self.max_position_embeddings),
        ];
        if let Some((name, size)) = sizes.into_iter().find(|&(_, size)| size < 1) {
            return Err(Error::Configuration(format!(
                "the {name} is {size}, expected at least 1"
            )));
        }
        // No model comes near; beyond, products of sizes overflow, and lists of names fill the memory.
        let most = |name| match name {
            "number of layers" => 1 << 12,
            "vocabulary size" => 1 << 24,
            "longest sequence" => 1 << 32,
            _ => 1 << 20,
        };
        let width = (
            "width of all heads",
            self.heads.saturating_mul(self.head_dim),
        );
        let mut all = sizes.into_iter().chain([width]);
        if let Some((name, size)) = all.find(|&(name, size)| size > most(name)) {
            return Err(Error::Configuration(format!(
                "the {name} is {size}, expected at most {}",
                most(name)
            )));
        }
        if !(self.rms_norm_epsilon > 0.0 && self.rms_norm_epsilon < 1.0) {
            return Err(Error::Configuration(format!(
                "the epsilon of the norms is {}, expected a number between 0 and 1",
                self.rms_norm_epsilon
            )));
        }
        if !(0.0..1.0).contains(&self.attention_dropout) {
            return Err(Error::Configuration(format!(
                "the dropout of the attention is {}, expected a number from 0 to below 1",
                self.attention_dropout
            )));
        }
        if self.heads % self.key_value_heads != 0 {
            return Err(Error::Configuration(format!(
                "{} heads cannot share {} key and value heads evenly",
                self.heads, self.key_value_heads
            )));
        }
        if self.head_dim % 2 != 0 {
            return Err(Error::Configuration(format!(
                "the head size is {}, expected an even number",
                self.head_dim
            )));
        }
        self.check_rope(&self.rope)?;
        if let Some(windows) = &self.windows {
            if windows.size < 1 || windows.layers.len() as i64 != self.layers {
                return Err(Error::Configuration(format!(
                    "a window of {} tokens in {} layers, expected at least 1 token and {} layers",
                    windows.size,
                    windows.layers.len(),
                    self.layers
                )));
            }
            if let Some(rope) = &windows.rope {
                self.check_rope(rope)?;
            }
        }
        Ok(())
    }

    fn check_rope(&self, rope: &Rope) -> Result<()> {
        let turned = rope.dimensions;
        if turned < 2 || turned % 2 != 0 || turned > self.head_dim {
            return Err(Error::Configuration(format!(
                "{turned} elements of a head are turned, expected an even number up to the head size {}",
                self.head_dim
            )));
        }
        if let Scaling::Long { short, long, .. } = &rope.scaling
            && [short, long]
                .iter()
                .any(|list| list.len() as i64 != turned / 2)
        {
            return Err(Error::Configuration(format!(
                "the rotation has {} short and {} long factors, expected {} each",
                short.len(),
                long.len(),
                turned / 2
            )));
        }
        if matches!(rope.scaling, Scaling::Dynamic { .. }) && turned < 4 {
            return Err(Error::Configuration(format!(
                "{turned} elements of a head are turned, expected at least 4 with dynamic scaling"
            )));
        }
        Ok(())
    }

    /// The bytes that the keys and values of a token take in all layers, of numbers in `kind`.
    pub fn key_value_bytes(&self, kind: Kind) -> i64 {
        2 * self.layers * self.key_value_heads * self.head_dim * kind.elt_size_in_bytes() as i64
    }

    /// What all norms have in common.
    pub(crate) const fn norm(&self) -> NormSettings {
        NormSettings {
            epsilon: self.rms_norm_epsilon,
            offset: self.wiring.norm_offset,
        }
    }

    /// What the attention of a layer is like.
    pub(crate) fn attention(&self, layer: i64) -> AttentionSettings {
        let scale = self.wiring.attention_scale;
        let windows = self.windows.as_ref();
        AttentionSettings {
            scale: scale.unwrap_or_else(|| 1.0 / (self.head_dim as f64).sqrt()),
            soft_cap: self.wiring.attention_soft_cap,
            window: windows
                .filter(|windows| windows.layers[layer as usize])
                .map(|windows| windows.size),
            dropout: None,
        }
    }

    /// Every rotation that some layer uses.
    pub(crate) fn ropes(&self) -> Vec<&Rope> {
        let local = self
            .windows
            .as_ref()
            .and_then(|windows| windows.rope.as_ref());
        std::iter::once(&self.rope).chain(local).collect()
    }

    /// Which of `ropes` a layer uses.
    pub(crate) fn rope_of(&self, layer: i64) -> usize {
        let local = |windows: &Windows| windows.rope.is_some() && windows.layers[layer as usize];
        usize::from(self.windows.as_ref().is_some_and(local))
    }
}
