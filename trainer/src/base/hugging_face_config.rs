//! `config.json` of a Hugging Face directory to the shape of a model.
//!
//! Every key is either read, or known to change nothing, or refused: a key that is passed over could be the one that
//! changes the mathematics.

use std::path::Path;

use serde_json::{Map, Value};

use super::Error;
use crate::model::ModelConfig;

const CONFIG: &str = "config.json";
const ARCHITECTURE: &str = "LlamaForCausalLM";

/// Keys that say nothing of how logits are computed from tokens.
const WITHOUT_EFFECT: [&str; 24] = [
    "_attn_implementation_autoset",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "return_dict",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_version",
    "use_cache",
];

/// Reads the configuration of the model in `folder`.
pub(super) fn read(folder: &Path) -> Result<ModelConfig, Error> {
    let path = folder.join(CONFIG);
    let bytes = std::fs::read(&path).map_err(|error| {
        Error::invalid(
            path.display().to_string(),
            format!(
                "{error}; expected a Hugging Face directory with config.json, or one .gguf file"
            ),
        )
    })?;
    let keys: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(path.display().to_string(), error.to_string()))?;
    Keys(keys).config()
}

/// The keys that are not read yet.
struct Keys(Map<String, Value>);

fn fault(key: &str, message: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{CONFIG} key `{key}`"), message.to_string())
}

impl Keys {
    fn config(mut self) -> Result<ModelConfig, Error> {
        let architecture = self.architecture()?;
        let hidden_size = self.size("hidden_size", None)?;
        let heads = self.size("num_attention_heads", None)?;
        let (rope_theta, partial) = self.rope()?;
        let config = ModelConfig {
            architecture,
            vocabulary_size: self.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: self.size("intermediate_size", None)?,
            layers: self.size("num_hidden_layers", None)?,
            heads,
            key_value_heads: self.size("num_key_value_heads", Some(heads))?,
            head_dim: self.size("head_dim", Some(hidden_size / heads.max(1)))?,
            rms_norm_epsilon: self.number("rms_norm_eps", 1e-6)?,
            rope_theta,
            max_position_embeddings: self.size("max_position_embeddings", Some(2048))?,
            tied_embeddings: self.flag("tie_word_embeddings")?,
            attention_bias: self.flag("attention_bias")?,
            mlp_bias: self.flag("mlp_bias")?,
        };
        self.must_be("hidden_act", &["silu".into()])?;
        self.must_be("pretraining_tp", &[1.into()])?;
        self.must_be("rope_interleaved", &[false.into()])?;
        self.must_be("attention_dropout", &[0.into(), 0.0.into()])?;
        if let Some(partial) = partial.filter(|partial| (partial - 1.0).abs() > f64::EPSILON) {
            return Err(fault(
                "partial_rotary_factor",
                format!("it is {partial}, which is not supported; expected 1"),
            ));
        }
        self.refuse_the_rest()?;
        config
            .check()
            .map_err(|error| Error::invalid(CONFIG, error.to_string()))?;
        Ok(config)
    }

    fn architecture(&mut self) -> Result<String, Error> {
        let found = self.0.remove("architectures").unwrap_or(Value::Null);
        match found.as_array().map(Vec::as_slice) {
            Some([Value::String(name)]) if name == ARCHITECTURE => Ok(name.clone()),
            _ => Err(fault(
                "architectures",
                format!("it is {found}, which is not supported; expected [\"{ARCHITECTURE}\"]"),
            )),
        }
    }

    /// The value of a key, unless it is absent or null.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    fn size(&mut self, key: &str, default: Option<i64>) -> Result<i64, Error> {
        match (self.take(key), default) {
            (Some(value), _) => value
                .as_i64()
                .filter(|size| (1..=1 << 32).contains(size))
                .ok_or_else(|| fault(key, format!("it is {value}, expected a positive integer"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(fault(key, "it is absent, expected a positive integer")),
        }
    }

    fn number(&mut self, key: &str, default: f64) -> Result<f64, Error> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| *number > 0.0)
                .ok_or_else(|| fault(key, format!("it is {value}, expected a positive number"))),
        }
    }

    fn flag(&mut self, key: &str) -> Result<bool, Error> {
        match self.take(key) {
            None => Ok(false),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| fault(key, format!("it is {value}, expected true or false"))),
        }
    }

    fn must_be(&mut self, key: &str, allowed: &[Value]) -> Result<(), Error> {
        match self.take(key) {
            Some(value) if !allowed.contains(&value) => Err(fault(
                key,
                format!(
                    "it is {value}, which is not supported; expected {}",
                    allowed[0]
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The base of the rotary frequencies and the share of a head that is rotated: in keys of their own, or, since
    /// transformers 5, together in `rope_parameters`.
    fn rope(&mut self) -> Result<(f64, Option<f64>), Error> {
        let mut theta = self.number("rope_theta", 10_000.0)?;
        let mut partial = self
            .take("partial_rotary_factor")
            .and_then(|value| value.as_f64());
        for key in ["rope_scaling", "rope_parameters"] {
            let Some(value) = self.take(key) else {
                continue;
            };
            let Value::Object(scaling) = value else {
                return Err(fault(key, format!("it is {value}, expected an object")));
            };
            let mut scaling = Self(scaling);
            theta = scaling.number("rope_theta", theta)?;
            partial = scaling
                .take("partial_rotary_factor")
                .and_then(|value| value.as_f64())
                .or(partial);
            for kind in ["rope_type", "type"] {
                let Some(value) = scaling.take(kind) else {
                    continue;
                };
                if value != "default" {
                    return Err(fault(
                        key,
                        format!(
                            "its {kind} is {value}, which is not supported; expected \"default\" or no scaling"
                        ),
                    ));
                }
            }
            if let Some((inner, value)) = scaling.0.iter().find(|(_, value)| !value.is_null()) {
                return Err(fault(
                    key,
                    format!("it holds `{inner}`: {value}, which is not supported"),
                ));
            }
        }
        Ok((theta, partial))
    }

    /// An unknown key that is null, false or empty asks for nothing.
    fn refuse_the_rest(&self) -> Result<(), Error> {
        let asks = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
        };
        let unknown = self
            .0
            .iter()
            .find(|(key, value)| !WITHOUT_EFFECT.contains(&key.as_str()) && asks(value));
        match unknown {
            None => Ok(()),
            Some((key, value)) => {
                let text = value.to_string();
                let shown: String = text.chars().take(80).collect();
                Err(fault(
                    key,
                    format!(
                        "it is {shown}, a key that this trainer does not know and that could change the model; remove it \
                         if it does not"
                    ),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn smollm2() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
            "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041_666,
            "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
            "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
            "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_interleaved": false, "rope_scaling": null,
            "rope_theta": 100_000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
            "transformers.js_config": { "dtype": "q4" }, "transformers_version": "4.42.3", "use_cache": true,
            "vocab_size": 49152,
        })
    }

    fn config(value: &Value) -> Result<ModelConfig, Error> {
        Keys(value.as_object().unwrap().clone()).config()
    }

    #[test]
    fn the_configuration_of_a_real_model_is_read() {
        let config = config(&smollm2()).unwrap();
        assert_eq!((config.head_dim, config.key_value_heads), (64, 3));
        assert!((config.rope_theta - 100_000.0).abs() < 1e-9);
        assert!(config.tied_embeddings);
        assert_eq!(config.parameters(), 134_515_008);
    }

    #[rstest]
    #[case("architectures", json!(["MistralForCausalLM"]), "expected [\"LlamaForCausalLM\"]")]
    #[case("rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), "its rope_type is \"llama3\"")]
    #[case("rope_scaling", json!({"factor": 8.0}), "it holds `factor`: 8.0")]
    #[case("rope_parameters", json!({"rope_type": "default", "x": 1}), "it holds `x`: 1")]
    #[case("hidden_act", json!("gelu"), "it is \"gelu\", which is not supported; expected \"silu\"")]
    #[case("pretraining_tp", json!(2), "expected 1")]
    #[case("partial_rotary_factor", json!(0.5), "expected 1")]
    #[case("quantization_config", json!({"quant_method": "gptq"}), "could change the model")]
    #[case("logit_scale", json!(0.5), "could change the model")]
    #[case("hidden_size", json!(-1), "expected a positive integer")]
    #[case("hidden_size", Value::Null, "it is absent")]
    #[case("num_key_value_heads", json!(2), "cannot share")]
    fn what_would_change_the_mathematics_is_refused_by_name(
        #[case] key: &str,
        #[case] value: Value,
        #[case] expected: &str,
    ) {
        let mut keys = smollm2();
        keys[key] = value;
        let error = config(&keys).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(CONFIG), "{error}");
    }

    #[test]
    fn unknown_keys_that_ask_for_nothing_are_passed_over() {
        let mut keys = smollm2();
        keys["sliding_window"] = Value::Null;
        keys["use_sliding_window"] = json!(false);
        assert!(config(&keys).is_ok());
    }
}
