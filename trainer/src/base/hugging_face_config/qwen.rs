//! Qwen2 (biases on queries, keys and values) and Qwen3 (norms of queries and keys instead); both with windows in the upper
//! layers, if at all.

use finetune_numerics::architecture::{ModelConfig, QueryKeyNorms};

use super::super::Error;
use super::keys::Keys;
use super::shape::{self, Defaults};

pub(in crate::base) fn qwen2(keys: &mut Keys, architecture: &str) -> Result<ModelConfig, Error> {
    let defaults = Defaults {
        key_value_heads: Some(32),
        max_position_embeddings: 32768,
        ..Defaults::LLAMA
    };
    let mut config = shape::sizes_and_rope(keys, architecture, &defaults)?;
    config.biases.attention = true;
    windows(keys, &mut config)?;
    Ok(config)
}

pub(in crate::base) fn qwen3(keys: &mut Keys, architecture: &str) -> Result<ModelConfig, Error> {
    let defaults = Defaults {
        key_value_heads: Some(32),
        head_dim: Some(128),
        max_position_embeddings: 32768,
        ..Defaults::LLAMA
    };
    let mut config = shape::sizes_and_rope(keys, architecture, &defaults)?;
    shape::attention_bias(keys, &mut config)?;
    config.wiring.query_key_norms = Some(QueryKeyNorms::Head);
    windows(keys, &mut config)?;
    Ok(config)
}

fn windows(keys: &mut Keys, config: &mut ModelConfig) -> Result<(), Error> {
    keys.must_be("hidden_act", &["silu".into()])?;
    let used = keys.flag("use_sliding_window", false)?;
    let size = shape::window(keys, Some(4096))?.filter(|_| used);
    let first = keys
        .take("max_window_layers")
        .map_or(Some(28), |value| value.as_i64())
        .ok_or_else(|| keys.fault("max_window_layers", "expected a whole number"))?;
    let windowed = |layer| size.is_some() && layer >= first;
    let layers = shape::windowed_layers(keys, config.layers, windowed)?;
    config.windows = shape::windows(keys, size, layers)?;
    Ok(())
}
