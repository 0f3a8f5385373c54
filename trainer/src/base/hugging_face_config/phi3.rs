//! Phi-3 and Phi-4: queries, keys and values in one linear layer, gate and up in another; a part of a head may be turned, by
//! frequencies that differ for short and long sequences.

use finetune_numerics::architecture::ModelConfig;

use super::super::Error;
use super::keys::Keys;
use super::rope::{self, Turned};
use super::shape::{self, Defaults};

pub(in crate::base) fn phi3(keys: &mut Keys, architecture: &str) -> Result<ModelConfig, Error> {
    let defaults = Defaults {
        max_position_embeddings: 4096,
        rms_norm_epsilon: 1e-5,
        ..Defaults::LLAMA
    };
    let mut config = shape::sizes(keys, architecture, &defaults)?;
    config.rope = rope::read(
        keys,
        &Turned {
            head_dim: config.head_dim,
            max_position_embeddings: config.max_position_embeddings,
            original_length: Some(4096),
            partly: true,
        },
    )?;
    config.wiring.fused = true;
    let size = shape::window(keys, None)?;
    let layers = vec![size.is_some(); config.layers as usize];
    config.windows = shape::windows(keys, size, layers)?;
    keys.must_be("hidden_act", &["silu".into()])?;
    keys.no_dropout("embd_pdrop")?;
    keys.no_dropout("resid_pdrop")?;
    // Phi-4-mini's files say them for code of their own, with the values that change nothing.
    keys.must_be("full_attn_mod", &[1.into()])?;
    keys.must_be("interpolate_factor", &[1.into()])?;
    Ok(config)
}
