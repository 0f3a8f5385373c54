//! Llama, and Mistral: the same with a window in all layers, if in any.

use finetune_numerics::architecture::ModelConfig;

use super::super::Error;
use super::keys::Keys;
use super::shape::{self, Defaults};

pub(in crate::base) fn llama(keys: &mut Keys, architecture: &str) -> Result<ModelConfig, Error> {
    let mut config = shape::sizes_and_rope(keys, architecture, &Defaults::LLAMA)?;
    shape::attention_bias(keys, &mut config)?;
    config.biases.feed_forward = keys.flag("mlp_bias", false)?;
    keys.must_be("hidden_act", &["silu".into()])?;
    keys.must_be("rope_interleaved", &[false.into()])?;
    Ok(config)
}

pub(in crate::base) fn mistral(keys: &mut Keys, architecture: &str) -> Result<ModelConfig, Error> {
    let defaults = Defaults {
        key_value_heads: Some(8),
        max_position_embeddings: 4096 * 32,
        ..Defaults::LLAMA
    };
    let mut config = shape::sizes_and_rope(keys, architecture, &defaults)?;
    let size = shape::window(keys, Some(4096))?;
    let layers = vec![size.is_some(); config.layers as usize];
    config.windows = shape::windows(keys, size, layers)?;
    keys.must_be("hidden_act", &["silu".into()])?;
    Ok(config)
}
