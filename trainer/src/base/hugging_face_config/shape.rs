//! What the configurations of all families share: sizes, the norm's epsilon, windows by layer.

use finetune_numerics::architecture::{Biases, ModelConfig, Windows, Wiring};
use finetune_numerics::ops::rope::{Rope, Scaling};
use serde_json::Value;

use super::super::Error;
use super::keys::Keys;
use super::rope::{self, Turned};

/// What an absent key means: the defaults of a family's configuration class in transformers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub(super) vocabulary_size: Option<i64>,
    pub(super) heads: Option<i64>,
    /// Absent: as many as query heads.
    pub(super) key_value_heads: Option<i64>,
    /// Absent: hidden size / heads.
    pub(super) head_dim: Option<i64>,
    pub(super) max_position_embeddings: i64,
    pub(super) rms_norm_epsilon: f64,
    pub(super) tied_embeddings: bool,
}

impl Defaults {
    /// Those of Llama.
    pub(super) const LLAMA: Self = Self {
        vocabulary_size: None,
        heads: None,
        key_value_heads: None,
        head_dim: None,
        max_position_embeddings: 2048,
        rms_norm_epsilon: 1e-6,
        tied_embeddings: false,
    };
}

/// The sizes, in a model that is wired as Llama, without biases and windows, and without its rotation.
pub(super) fn sizes(
    keys: &mut Keys,
    architecture: &str,
    defaults: &Defaults,
) -> Result<ModelConfig, Error> {
    let hidden_size = keys.size("hidden_size", None)?;
    let heads = keys.size("num_attention_heads", defaults.heads)?;
    let key_value_heads = defaults.key_value_heads.unwrap_or(heads);
    let head_dim = defaults.head_dim.unwrap_or(hidden_size / heads);
    let head_dim = keys.size("head_dim", Some(head_dim))?;
    Ok(ModelConfig {
        architecture: architecture.to_owned(),
        vocabulary_size: keys.size("vocab_size", defaults.vocabulary_size)?,
        hidden_size,
        intermediate_size: keys.size("intermediate_size", None)?,
        layers: keys.size("num_hidden_layers", None)?,
        heads,
        key_value_heads: keys.size("num_key_value_heads", Some(key_value_heads))?,
        head_dim,
        rms_norm_epsilon: keys.number("rms_norm_eps", defaults.rms_norm_epsilon)?,
        rope: Rope {
            theta: rope::THETA,
            dimensions: head_dim,
            scaling: Scaling::None,
        },
        windows: None,
        max_position_embeddings: keys.size(
            "max_position_embeddings",
            Some(defaults.max_position_embeddings),
        )?,
        attention_dropout: keys.dropout("attention_dropout")?,
        tied_embeddings: keys.flag("tie_word_embeddings", defaults.tied_embeddings)?,
        biases: Biases::default(),
        wiring: Wiring::LLAMA,
    })
}

/// The sizes and the rotation of a family that turns whole heads.
pub(super) fn sizes_and_rope(
    keys: &mut Keys,
    architecture: &str,
    defaults: &Defaults,
) -> Result<ModelConfig, Error> {
    let mut config = sizes(keys, architecture, defaults)?;
    config.rope = rope::read(
        keys,
        &Turned {
            head_dim: config.head_dim,
            max_position_embeddings: config.max_position_embeddings,
            original_length: None,
            partly: false,
        },
    )?;
    Ok(config)
}

/// Reads whether all four of the attention's linear layers have biases.
pub(super) fn attention_bias(keys: &mut Keys, config: &mut ModelConfig) -> Result<(), Error> {
    config.biases.attention = keys.flag("attention_bias", false)?;
    config.biases.output = config.biases.attention;
    Ok(())
}

/// The length of a window: an absent key means the default, null none.
pub(super) fn window(keys: &mut Keys, default: Option<i64>) -> Result<Option<i64>, Error> {
    if !keys.has("sliding_window") {
        return Ok(default);
    }
    keys.optional_size("sliding_window")
}

/// For each layer whether it has a window: as `layer_types` says, else as the family does.
pub(super) fn windowed_layers(
    keys: &mut Keys,
    layers: i64,
    family: impl Fn(i64) -> bool,
) -> Result<Vec<bool>, Error> {
    let Some(value) = keys.take("layer_types") else {
        return Ok((0..layers).map(family).collect());
    };
    let windowed = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let list = value
        .as_array()
        .and_then(|list| list.iter().map(windowed).collect::<Option<Vec<_>>>());
    list.filter(|list| list.len() as i64 == layers)
        .ok_or_else(|| {
            keys.fault(
                "layer_types",
                format!(
                    "it is {value}, expected {layers} times \"full_attention\" or \"sliding_attention\""
                ),
            )
        })
}

/// The windows of a model, of one size in these layers.
pub(super) fn windows(
    keys: &Keys,
    size: Option<i64>,
    layers: Vec<bool>,
) -> Result<Option<Windows>, Error> {
    if !layers.contains(&true) {
        return Ok(None);
    }
    let size = size.ok_or_else(|| {
        keys.fault(
            "sliding_window",
            "it is absent or null, expected a positive integer: some layers have a window",
        )
    })?;
    Ok(Some(Windows {
        size,
        layers,
        rope: None,
    }))
}
