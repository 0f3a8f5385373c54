//! Gemma (norms × (1 + weight), scaled embeddings, GELU), Gemma 2 (norms on both sides, capped scores and logits, every second
//! layer with a window), Gemma 3 (norms of queries and keys instead of caps, layers with a window turn by other frequencies).

use finetune_numerics::architecture::{ModelConfig, NormPlaces, QueryKeyNorms};
use finetune_numerics::ops::gated::Activation;
use finetune_numerics::ops::rope::{Rope, Scaling};
use serde_json::Value;

use super::super::Error;
use super::keys::Keys;
use super::rope::{self, Turned};
use super::shape::{self, Defaults};

const DEFAULTS: Defaults = Defaults {
    key_value_heads: Some(4),
    head_dim: Some(256),
    max_position_embeddings: 8192,
    tied_embeddings: true,
    ..Defaults::LLAMA
};
/// The base of the frequencies of Gemma 3's layers that see all.
const GLOBAL_THETA: f64 = 1_000_000.0;

pub(in crate::base) fn gemma(keys: &mut Keys, architecture: &str) -> Result<ModelConfig, Error> {
    let defaults = Defaults {
        key_value_heads: Some(16),
        ..DEFAULTS
    };
    let mut config = shape::sizes_and_rope(keys, architecture, &defaults)?;
    wire(keys, &mut config)?;
    Ok(config)
}

pub(in crate::base) fn gemma2(keys: &mut Keys, architecture: &str) -> Result<ModelConfig, Error> {
    let mut config = shape::sizes_and_rope(keys, architecture, &DEFAULTS)?;
    wire(keys, &mut config)?;
    newer(keys, &mut config)?;
    config.wiring.attention_soft_cap = cap(keys, "attn_logit_softcapping", Some(50.0))?;
    config.wiring.logits.soft_cap = cap(keys, "final_logit_softcapping", Some(30.0))?;
    let size = shape::window(keys, Some(4096))?;
    let layers = shape::windowed_layers(keys, config.layers, |layer| layer % 2 == 0)?;
    config.windows = shape::windows(keys, size, layers)?;
    Ok(config)
}

pub(in crate::base) fn gemma3(keys: &mut Keys, architecture: &str) -> Result<ModelConfig, Error> {
    let defaults = Defaults {
        vocabulary_size: Some(262_208),
        heads: Some(8),
        max_position_embeddings: 131_072,
        ..DEFAULTS
    };
    let mut config = shape::sizes(keys, architecture, &defaults)?;
    wire(keys, &mut config)?;
    newer(keys, &mut config)?;
    config.wiring.query_key_norms = Some(QueryKeyNorms::Head);
    // Its attention knows no cap.
    keys.must_be("attn_logit_softcapping", &[Value::Null])?;
    config.wiring.logits.soft_cap = cap(keys, "final_logit_softcapping", None)?;
    let size = shape::window(keys, Some(4096))?;
    let pattern = keys.size("sliding_window_pattern", Some(6))?;
    // What transformers writes beside `layer_types`.
    keys.must_be("_sliding_window_pattern", &[pattern.into()])?;
    let layers = shape::windowed_layers(keys, config.layers, |layer| (layer + 1) % pattern != 0)?;
    config.windows = shape::windows(keys, size, layers)?;
    let (global, local) = rotations(keys, &config)?;
    config.rope = global;
    if let Some(windows) = &mut config.windows {
        windows.rope = Some(local);
    }
    Ok(config)
}

/// The language model within a model that also sees images. Images are not trained on.
pub(in crate::base) fn gemma3_multimodal(
    keys: &mut Keys,
    architecture: &str,
) -> Result<ModelConfig, Error> {
    let mut inner = keys
        .object("text_config")?
        .ok_or_else(|| keys.fault("text_config", "it is absent, expected an object"))?;
    let mut config = gemma3(&mut inner, architecture)?;
    inner.refuse_the_rest()?;
    config.wiring.decoder = "model.language_model";
    config.tied_embeddings = keys.flag("tie_word_embeddings", true)?;
    for of_images in [
        "boi_token_index",
        "eoi_token_index",
        "image_token_index",
        "mm_tokens_per_image",
        "vision_config",
    ] {
        let _ = keys.take(of_images);
    }
    Ok(config)
}

/// What all Gemmas have in common.
fn wire(keys: &mut Keys, config: &mut ModelConfig) -> Result<(), Error> {
    // Gemma's first files say "gelu" and mean its tanh approximation.
    let gelu: [Value; 2] = ["gelu_pytorch_tanh".into(), "gelu".into()];
    keys.must_be("hidden_act", &gelu)?;
    keys.must_be("hidden_activation", &gelu[..1])?;
    shape::attention_bias(keys, config)?;
    config.wiring.activation = Activation::GeluTanh;
    config.wiring.norm_offset = 1.0;
    config.wiring.embedding_multiplier = Some((config.hidden_size as f64).sqrt());
    Ok(())
}

/// What Gemma 2 and 3 have in common.
fn newer(keys: &mut Keys, config: &mut ModelConfig) -> Result<(), Error> {
    config.wiring.norms = NormPlaces::Both;
    let scalar = keys.number("query_pre_attn_scalar", 256.0)?;
    config.wiring.attention_scale = Some(1.0 / scalar.sqrt());
    Ok(())
}

/// An absent key means the default, null none.
fn cap(keys: &mut Keys, key: &str, default: Option<f64>) -> Result<Option<f64>, Error> {
    if !keys.has(key) {
        return Ok(default);
    }
    keys.optional_number(key)
}

/// The rotation of the layers that see all, and that of the layers with a window.
fn rotations(keys: &mut Keys, config: &ModelConfig) -> Result<(Rope, Rope), Error> {
    let dimensions = config.head_dim;
    let turned = Turned {
        head_dim: dimensions,
        max_position_embeddings: config.max_position_embeddings,
        original_length: None,
        partly: false,
    };
    let theta = keys.number("rope_theta", GLOBAL_THETA)?;
    let local_theta = keys.number("rope_local_base_freq", rope::THETA)?;
    let plain = |theta| Rope {
        theta,
        dimensions,
        scaling: Scaling::None,
    };
    let scaling = keys.object("rope_scaling")?;
    let Some(mut by_kind) = keys.object("rope_parameters")? else {
        let global = match scaling {
            None => plain(theta),
            Some(inner) => rope::parameters(inner, theta, dimensions, &turned)?,
        };
        return Ok((global, plain(local_theta)));
    };
    if scaling.is_some() {
        return Err(keys.fault(
            "rope_parameters",
            "it is there beside `rope_scaling`, expected one of them",
        ));
    }
    let mut of = |kind: &str, theta: f64| match by_kind.object(kind)? {
        None => Ok(plain(theta)),
        Some(inner) => rope::parameters(inner, theta, dimensions, &turned),
    };
    let rotations = (
        of("full_attention", theta)?,
        of("sliding_attention", local_theta)?,
    );
    by_kind.refuse_the_rest()?;
    Ok(rotations)
}
