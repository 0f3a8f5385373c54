//! Granite: Llama with multipliers on embeddings, scores, branches and logits.

use finetune_numerics::architecture::ModelConfig;

use super::super::Error;
use super::keys::Keys;
use super::shape::{self, Defaults};

pub(in crate::base) fn granite(keys: &mut Keys, architecture: &str) -> Result<ModelConfig, Error> {
    let mut config = shape::sizes_and_rope(keys, architecture, &Defaults::LLAMA)?;
    shape::attention_bias(keys, &mut config)?;
    config.biases.feed_forward = keys.flag("mlp_bias", false)?;
    keys.must_be("hidden_act", &["silu".into()])?;
    let wiring = &mut config.wiring;
    wiring.embedding_multiplier = keys.multiplier("embedding_multiplier")?;
    wiring.residual_multiplier = keys.multiplier("residual_multiplier")?;
    // Not times 1 / sqrt(D): the multiplier stands in its place, also where it is absent.
    wiring.attention_scale = Some(keys.number("attention_multiplier", 1.0)?);
    wiring.logits.multiplier = keys.multiplier("logits_scaling")?.map(f64::recip);
    Ok(config)
}
