//! How a family of models wires the shared operations: where its norms stand, what is fused, capped and multiplied.

use crate::ops::gated::Activation;
use crate::ops::logits::LogitSettings;
use crate::ops::rope::Rope;

/// What tells one family from another, beside the sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wiring {
    /// The module that holds embedding, layers and last norm.
    pub decoder: &'static str,
    /// Whether queries, keys and values are one linear layer, and gate and up another.
    pub fused: bool,
    /// Where the norms of a layer stand.
    pub norms: NormPlaces,
    /// Added to the weight of every norm.
    pub norm_offset: f64,
    /// Norms of queries and keys before they are turned.
    pub query_key_norms: Option<QueryKeyNorms>,
    /// What is applied to the gate.
    pub activation: Activation,
    /// What q·k is multiplied by; absent: 1 / sqrt(D).
    pub attention_scale: Option<f64>,
    /// c of c·tanh(score / c).
    pub attention_soft_cap: Option<f64>,
    /// What embedded tokens are multiplied by.
    pub embedding_multiplier: Option<f64>,
    /// What attention and feed-forward part are multiplied by before they are added to the residual stream.
    pub residual_multiplier: Option<f64>,
    /// What is done to logits.
    pub logits: LogitSettings,
}

impl Wiring {
    /// That of Llama.
    pub const LLAMA: Self = Self {
        decoder: "model",
        fused: false,
        norms: NormPlaces::Before,
        norm_offset: 0.0,
        query_key_norms: None,
        activation: Activation::Silu,
        attention_scale: None,
        attention_soft_cap: None,
        embedding_multiplier: None,
        residual_multiplier: None,
        logits: LogitSettings::PLAIN,
    };
}

/// Where the norms of a layer stand: before what a branch takes from the residual stream, after what it gives, or both.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NormPlaces {
    /// Llama and most.
    Before,
    /// OLMo 2.
    After,
    /// Gemma 2 and 3.
    Both,
}

/// The names of the norms around a branch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BranchNorms {
    pub(crate) before: Option<&'static str>,
    pub(crate) after: Option<&'static str>,
}

impl NormPlaces {
    /// Those of the attention, then those of the feed-forward part.
    pub(crate) const fn names(self) -> [BranchNorms; 2] {
        let (attention, feed_forward) = match self {
            // The name tells of the attention before it.
            Self::Before => (
                (Some("input_layernorm"), None),
                (Some("post_attention_layernorm"), None),
            ),
            Self::After => (
                (None, Some("post_attention_layernorm")),
                (None, Some("post_feedforward_layernorm")),
            ),
            Self::Both => (
                (Some("input_layernorm"), Some("post_attention_layernorm")),
                (
                    Some("pre_feedforward_layernorm"),
                    Some("post_feedforward_layernorm"),
                ),
            ),
        };
        [
            BranchNorms {
                before: attention.0,
                after: attention.1,
            },
            BranchNorms {
                before: feed_forward.0,
                after: feed_forward.1,
            },
        ]
    }
}

/// What the norms of queries and keys span.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QueryKeyNorms {
    /// Each head by itself, all with the same weights (D).
    Head,
    /// All heads together (heads·D).
    Projection,
}

/// The layers that see only the last tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    /// The number of tokens that a token sees, itself included.
    pub size: i64,
    /// For each layer whether it is one of them.
    pub layers: Vec<bool>,
    /// Their rotation, where it is another than that of the layers that see all.
    pub rope: Option<Rope>,
}
