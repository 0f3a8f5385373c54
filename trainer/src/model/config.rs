//! The shape of a model of the Llama family, and the names of its weights.

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
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
    /// The longest sequence that the model was made for.
    pub max_position_embeddings: i64,
    /// Whether the output matrix is the embedding.
    pub tied_embeddings: bool,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
}

/// The name of the embedding matrix (V, H).
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The name of the last norm's weight (H).
pub(super) const FINAL_NORM: &str = "model.norm.weight";
/// The name of an untied output matrix (V, H).
pub(super) const HEAD: &str = "lm_head.weight";

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
        Ok(())
    }

    /// The name and shape of every weight, in the order of computation. A tied output matrix is not listed.
    pub fn tensors(&self) -> Vec<(String, Vec<i64>)> {
        let mut list = vec![(
            EMBEDDING.to_owned(),
            vec![self.vocabulary_size, self.hidden_size],
        )];
        for layer in 0..self.layers {
            let norms = norm_names(layer).map(|name| (name, vec![self.hidden_size]));
            list.extend(norms);
            for projection in Projection::ALL {
                let (output, input) = projection.shape(self);
                let module = projection.module(layer);
                list.push((format!("{module}.weight"), vec![output, input]));
                if projection.has_bias(self) {
                    list.push((format!("{module}.bias"), vec![output]));
                }
            }
        }
        list.push((FINAL_NORM.to_owned(), vec![self.hidden_size]));
        if !self.tied_embeddings {
            list.push((
                HEAD.to_owned(),
                vec![self.vocabulary_size, self.hidden_size],
            ));
        }
        list
    }

    /// The number of weights.
    pub fn parameters(&self) -> i64 {
        self.tensors()
            .iter()
            .map(|(_, shape)| shape.iter().product::<i64>())
            .sum()
    }
}

/// The names of the norms before attention and before the feed-forward part.
pub(super) fn norm_names(layer: i64) -> [String; 2] {
    ["input_layernorm", "post_attention_layernorm"]
        .map(|norm| format!("model.layers.{layer}.{norm}.weight"))
}

/// The linear layers within a layer of the model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Projection {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// From the heads back to the residual stream.
    Output,
    /// The gate of the feed-forward part.
    Gate,
    /// What is gated.
    Up,
    /// Back to the residual stream.
    Down,
}

impl Projection {
    /// All of them, in the order of computation.
    pub const ALL: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// The last part of the module's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module's full name, as `model.layers.0.self_attn.q_proj`.
    pub fn module(self, layer: i64) -> String {
        let part = match self {
            Self::Query | Self::Key | Self::Value | Self::Output => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        };
        format!("model.layers.{layer}.{part}.{}", self.name())
    }

    /// (out, in).
    pub const fn shape(self, config: &ModelConfig) -> (i64, i64) {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        match self {
            Self::Query => (config.heads * config.head_dim, hidden),
            Self::Key | Self::Value => (config.key_value_heads * config.head_dim, hidden),
            Self::Output => (hidden, config.heads * config.head_dim),
            Self::Gate | Self::Up => (intermediate, hidden),
            Self::Down => (hidden, intermediate),
        }
    }

    /// Whether it has a bias.
    pub const fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Query | Self::Key | Self::Value | Self::Output => config.attention_bias,
            Self::Gate | Self::Up | Self::Down => config.mlp_bias,
        }
    }
}
