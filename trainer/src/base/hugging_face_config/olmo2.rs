//! OLMo 2: norms behind the branches instead of before them, and of queries and keys over all heads together.

use finetune_numerics::architecture::{ModelConfig, NormPlaces, QueryKeyNorms};

use super::super::Error;
use super::keys::Keys;
use super::shape::{self, Defaults};

pub(in crate::base) fn olmo2(keys: &mut Keys, architecture: &str) -> Result<ModelConfig, Error> {
    let defaults = Defaults {
        rms_norm_epsilon: 1e-5,
        ..Defaults::LLAMA
    };
    let mut config = shape::sizes_and_rope(keys, architecture, &defaults)?;
    shape::attention_bias(keys, &mut config)?;
    config.wiring.norms = NormPlaces::After;
    config.wiring.query_key_norms = Some(QueryKeyNorms::Projection);
    keys.must_be("hidden_act", &["silu".into()])?;
    Ok(config)
}
