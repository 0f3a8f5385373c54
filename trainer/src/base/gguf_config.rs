//! The metadata of a GGUF file to the shape of a model. Strict as its counterpart for `config.json`.

use finetune_artifacts::gguf::{GgufFile, Value as Metadata};
use finetune_dataset::tokenize::SpecialTokens;
use finetune_numerics::architecture::{Biases, ModelConfig, Wiring};
use finetune_numerics::ops::rope::{Rope, Scaling};
use serde_json::json;

use super::Error;

/// The architecture that is supported, which is also the prefix of its keys.
const LLAMA: &str = "llama";
/// Keys of the architecture that are read, or checked to change nothing.
const KNOWN: [&str; 15] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "vocab_size",
];

fn fault(key: &str, message: impl std::fmt::Display) -> Error {
    Error::invalid(format!("GGUF key `{key}`"), message.to_string())
}

/// Reads the shape of the model in `file`.
pub(super) fn read(file: &GgufFile) -> Result<ModelConfig, Error> {
    let architecture = file
        .metadata("general.architecture")
        .and_then(Metadata::as_str)
        .unwrap_or_default();
    if architecture != LLAMA {
        return Err(fault(
            "general.architecture",
            format!("it is `{architecture}`, which is not supported; expected `{LLAMA}`"),
        ));
    }
    refuse_unknown(file)?;
    let keys = Keys(file);
    let hidden_size = keys.size("embedding_length", None)?;
    let heads = keys.size("attention.head_count", None)?;
    let head_dim = keys.size("attention.key_length", Some(hidden_size / heads.max(1)))?;
    for key in ["attention.value_length", "rope.dimension_count"] {
        let found = keys.size(key, Some(head_dim))?;
        if found != head_dim {
            return Err(fault(
                &format!("{LLAMA}.{key}"),
                format!("it is {found}, which is not supported; expected the head size {head_dim}"),
            ));
        }
    }
    let theta = keys.number("rope.freq_base", Some(10_000.0))?;
    let attention_bias = file.tensor("blk.0.attn_q.bias").is_ok();
    let config = ModelConfig {
        architecture: "LlamaForCausalLM".to_owned(),
        vocabulary_size: vocabulary_size(file)?,
        hidden_size,
        intermediate_size: keys.size("feed_forward_length", None)?,
        layers: keys.size("block_count", None)?,
        heads,
        key_value_heads: keys.size("attention.head_count_kv", Some(heads))?,
        head_dim,
        rms_norm_epsilon: keys.number("attention.layer_norm_rms_epsilon", None)?,
        rope: Rope {
            theta,
            dimensions: head_dim,
            scaling: scaling(file, theta, head_dim)?,
        },
        windows: None,
        max_position_embeddings: keys.size("context_length", None)?,
        attention_dropout: 0.0,
        tied_embeddings: file.tensor("output.weight").is_err(),
        biases: Biases {
            attention: attention_bias,
            output: attention_bias,
            feed_forward: file.tensor("blk.0.ffn_gate.bias").is_ok(),
        },
        wiring: Wiring::LLAMA,
    };
    config
        .check()
        .map_err(|error| Error::invalid(file.path().display().to_string(), error.to_string()))?;
    Ok(config)
}

/// A `config.json` for weights that were trained from such a file.
pub(super) fn to_hugging_face(config: &ModelConfig, special: &SpecialTokens) -> Vec<u8> {
    let id = |token: &Option<finetune_dataset::tokenize::SpecialToken>| {
        token.as_ref().map(|token| token.id)
    };
    let json = json!({
        "architectures": [config.architecture],
        "attention_bias": config.biases.attention,
        "attention_dropout": 0.0,
        "bos_token_id": id(&special.bos),
        "eos_token_id": id(&special.eos),
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "mlp_bias": config.biases.feed_forward,
        "model_type": "llama",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.key_value_heads,
        "pad_token_id": id(&special.pad),
        "rms_norm_eps": config.rms_norm_epsilon,
        "rope_scaling": match config.rope.scaling {
            Scaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_length } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_frequency_factor,
                "high_freq_factor": high_frequency_factor, "original_max_position_embeddings": original_length,
            }),
            _ => serde_json::Value::Null,
        },
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": config.tied_embeddings,
        "vocab_size": config.vocabulary_size,
    });
    let mut text = serde_json::to_vec_pretty(&json).unwrap_or_default();
    text.push(b'\n');
    text
}

fn refuse_unknown(file: &GgufFile) -> Result<(), Error> {
    for key in file.metadata_keys() {
        let own = key
            .strip_prefix(LLAMA)
            .and_then(|rest| rest.strip_prefix('.'));
        if own.is_some_and(|own| !KNOWN.contains(&own)) {
            return Err(fault(
                key,
                "this trainer does not know the key, and it could change the model",
            ));
        }
    }
    let scaling = format!("{LLAMA}.rope.scaling.type");
    match file.metadata(&scaling).and_then(Metadata::as_str) {
        None | Some("none") => {}
        Some(other) => {
            return Err(fault(
                &scaling,
                format!("it is `{other}`, which is not supported; expected no scaling"),
            ));
        }
    }
    for key in [
        format!("{LLAMA}.expert_count"),
        format!("{LLAMA}.expert_used_count"),
    ] {
        if file
            .metadata(&key)
            .is_some_and(|value| value.as_u64() != Some(0))
        {
            return Err(fault(
                &key,
                "mixtures of experts are not supported; expected 0",
            ));
        }
    }
    let split = file.metadata("split.count").and_then(Metadata::as_u64);
    if split.is_some_and(|count| count > 1) {
        return Err(fault(
            "split.count",
            "the model is split over several files, expected one: merge it with `llama-gguf-split --merge`",
        ));
    }
    Ok(())
}

/// The tensor of the divisors of the frequencies (D / 2), which llama.cpp's converter computes from Llama 3.1's scaling.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The scaling of which the file holds the divisors. They tell the factor, their largest, but not the lengths between which
/// they grow: those of Llama 3.1 to 3.3 are tried, and another scaling is refused.
fn scaling(file: &GgufFile, theta: f64, head_dim: i64) -> Result<Scaling, Error> {
    if file.tensor(ROPE_FACTORS).is_err() {
        return Ok(Scaling::None);
    }
    let wrong = |message: String| {
        Error::invalid(
            format!("tensor `{ROPE_FACTORS}`"),
            format!("{message}: give the model's Hugging Face directory instead"),
        )
    };
    let half = (head_dim / 2) as usize;
    let shape = &file.tensor(ROPE_FACTORS)?.shape;
    if *shape != [half] {
        return Err(wrong(format!("it has shape {shape:?}, expected [{half}]")));
    }
    let mut divisors = vec![0.0; half];
    file.dequantize(ROPE_FACTORS, &mut divisors)?;
    let largest = divisors.iter().copied().fold(0.0, f32::max);
    if !(divisors.iter().all(|divisor| *divisor >= 1.0) && largest.is_finite()) {
        return Err(wrong("a divisor is below 1 or no number".to_owned()));
    }
    let frequencies = |scaling| {
        let rope = Rope {
            theta,
            dimensions: head_dim,
            scaling,
        };
        rope.frequencies(1)
            .map_err(|error| wrong(error.to_string()))
    };
    let scaling = Scaling::Llama3 {
        factor: f64::from(largest),
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_length: 8192,
    };
    let (plain, scaled) = (frequencies(Scaling::None)?, frequencies(scaling.clone())?);
    let mut expected = plain
        .iter()
        .zip(scaled)
        .map(|(plain, scaled)| plain / scaled);
    let equal = divisors.iter().all(|divisor| {
        expected
            .next()
            .is_some_and(|expected| (divisor / expected - 1.0).abs() < 1e-3)
    });
    match equal {
        true => Ok(scaling),
        false => Err(wrong(
            "its divisors are not those of Llama 3.1's scaling".to_owned(),
        )),
    }
}

/// The number of rows of the embedding, which is what counts whatever the metadata says.
fn vocabulary_size(file: &GgufFile) -> Result<i64, Error> {
    let shape = &file.tensor("token_embd.weight")?.shape;
    match shape.as_slice() {
        [rows, _] => Ok(*rows as i64),
        _ => Err(Error::invalid(
            "tensor `token_embd.weight`",
            format!("it has shape {shape:?}, expected two dimensions"),
        )),
    }
}

struct Keys<'file>(&'file GgufFile);

impl Keys<'_> {
    fn size(&self, key: &str, default: Option<i64>) -> Result<i64, Error> {
        let key = format!("{LLAMA}.{key}");
        match (self.0.metadata(&key), default) {
            (Some(value), _) => value
                .as_u64()
                .filter(|size| (1..=1 << 32).contains(size))
                .map(|size| size as i64)
                .ok_or_else(|| fault(&key, format!("it is {value}, expected a positive integer"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(fault(&key, "it is absent, expected a positive integer")),
        }
    }

    fn number(&self, key: &str, default: Option<f64>) -> Result<f64, Error> {
        let key = format!("{LLAMA}.{key}");
        match (self.0.metadata(&key), default) {
            (Some(value), _) => value
                .as_f64()
                .filter(|number| *number > 0.0)
                .ok_or_else(|| fault(&key, format!("it is {value}, expected a positive number"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(fault(&key, "it is absent, expected a positive number")),
        }
    }
}
