//! The linear layers within a layer of the model: their names and shapes.

use super::config::ModelConfig;

/// The linear layers within a layer of the model. A model has the separate or the fused ones: `ModelConfig::projections`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Projection {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// Queries, keys and values in one.
    QueryKeyValue,
    /// From the heads back to the residual stream.
    Output,
    /// The gate of the feed-forward part.
    Gate,
    /// What is gated.
    Up,
    /// Gate and up in one.
    GateUp,
    /// Back to the residual stream.
    Down,
}

impl Projection {
    /// All of them, in the order of computation.
    pub const ALL: [Self; 9] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::QueryKeyValue,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::GateUp,
        Self::Down,
    ];
    /// Those of a model that fuses nothing.
    pub(super) const SEPARATE: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];
    /// Those of a model that fuses what has the same input.
    pub(super) const FUSED: [Self; 4] =
        [Self::QueryKeyValue, Self::Output, Self::GateUp, Self::Down];

    /// The last part of the module's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::QueryKeyValue => "qkv_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::GateUp => "gate_up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The last part of the name that llama.cpp gives the module in a GGUF file (`LLM_TENSOR_NAMES` of its `llama-arch.cpp`).
    pub const fn gguf_name(self) -> &'static str {
        match self {
            Self::Query => "attn_q",
            Self::Key => "attn_k",
            Self::Value => "attn_v",
            Self::QueryKeyValue => "attn_qkv",
            Self::Output => "attn_output",
            Self::Gate => "ffn_gate",
            Self::Up | Self::GateUp => "ffn_up",
            Self::Down => "ffn_down",
        }
    }

    /// The module's full name, as `model.layers.0.self_attn.q_proj`.
    pub fn module(self, config: &ModelConfig, layer: i64) -> String {
        let part = match self {
            Self::Query | Self::Key | Self::Value | Self::QueryKeyValue | Self::Output => {
                "self_attn"
            }
            Self::Gate | Self::Up | Self::GateUp | Self::Down => "mlp",
        };
        let decoder = config.wiring.decoder;
        format!("{decoder}.layers.{layer}.{part}.{}", self.name())
    }

    /// (out, in).
    pub const fn shape(self, config: &ModelConfig) -> (i64, i64) {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let queries = config.heads * config.head_dim;
        let keys = config.key_value_heads * config.head_dim;
        match self {
            Self::Query => (queries, hidden),
            Self::Key | Self::Value => (keys, hidden),
            Self::QueryKeyValue => (queries + 2 * keys, hidden),
            Self::Output => (hidden, queries),
            Self::Gate | Self::Up => (intermediate, hidden),
            Self::GateUp => (2 * intermediate, hidden),
            Self::Down => (hidden, intermediate),
        }
    }

    /// Whether it has a bias.
    pub const fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Query | Self::Key | Self::Value | Self::QueryKeyValue => config.biases.attention,
            Self::Output => config.biases.output,
            Self::Gate | Self::Up | Self::GateUp | Self::Down => config.biases.feed_forward,
        }
    }
}
