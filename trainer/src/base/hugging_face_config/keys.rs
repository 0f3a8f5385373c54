//! The keys of a JSON object, taken out one by one: what is left at the end was not understood, and is refused.

use serde_json::{Map, Value};

use super::super::Error;
use super::CONFIG;

/// Keys that say nothing of which logits are computed from tokens: how they are computed, what generation and classification do, where
/// the file comes from.
const WITHOUT_EFFECT: [&str; 85] = [
    "add_cross_attention",
    "attention_implementation",
    "attn_impl",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "flash_attention",
    "flash_attn",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "fused_mlp",
    "fused_rms_norm",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_compile",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_cuda_graph",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
    "use_flash_attn_2",
    "use_fused_kernels",
    "use_fused_rmsnorm",
    "use_fused_rope",
    "use_liger_kernel",
    "use_mem_efficient_attention",
    "use_memory_efficient_attention",
    "use_sdpa",
    "use_triton",
    "use_xformers",
];

/// Whether a key says nothing of which logits are computed. Names that begin with an underscore are a library's notes to itself,
/// such as the attention kernel that was in use when the file was written.
fn is_without_effect(key: &str) -> bool {
    key.starts_with('_') || WITHOUT_EFFECT.contains(&key)
}

/// The keys that are not read yet.
#[derive(Debug)]
pub(in crate::base) struct Keys {
    list: Map<String, Value>,
    /// The names of the objects around this one, each with a dot behind it.
    within: String,
}

impl Keys {
    /// The keys of the whole file.
    pub(super) const fn new(list: Map<String, Value>) -> Self {
        Self {
            list,
            within: String::new(),
        }
    }

    /// An error about a key.
    pub(super) fn fault(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::invalid(
            format!("{CONFIG} key `{}{key}`", self.within),
            message.to_string(),
        )
    }

    /// The value of a key, unless it is absent or null.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.list.remove(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, were it null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.list.contains_key(key)
    }

    /// The keys of the object under a key, unless it is absent, null or empty.
    pub(super) fn object(&mut self, key: &str) -> Result<Option<Self>, Error> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(list)) => {
                let within = format!("{}{key}.", self.within);
                Ok((!list.is_empty()).then_some(Self { list, within }))
            }
            Some(value) => Err(self.fault(key, format!("it is {value}, expected an object"))),
        }
    }

    /// A positive whole number, or none where it is absent or null.
    pub(super) fn optional_size(&mut self, key: &str) -> Result<Option<i64>, Error> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let size = value.as_i64().filter(|size| (1..=1 << 32).contains(size));
        match size {
            Some(size) => Ok(Some(size)),
            None => Err(self.fault(key, format!("it is {value}, expected a positive integer"))),
        }
    }

    /// A positive whole number; without a default it must be there.
    pub(super) fn size(&mut self, key: &str, default: Option<i64>) -> Result<i64, Error> {
        self.optional_size(key)?
            .or(default)
            .ok_or_else(|| self.fault(key, "it is absent, expected a positive integer"))
    }

    /// A positive number, or none where it is absent or null.
    pub(super) fn optional_number(&mut self, key: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        match value.as_f64().filter(|number| *number > 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(self.fault(key, format!("it is {value}, expected a positive number"))),
        }
    }

    /// A positive number.
    pub(super) fn number(&mut self, key: &str, default: f64) -> Result<f64, Error> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    /// A positive number that must be there.
    pub(super) fn required_number(&mut self, key: &str) -> Result<f64, Error> {
        self.optional_number(key)?
            .ok_or_else(|| self.fault(key, "it is absent, expected a positive number"))
    }

    /// A factor; none where it is absent or 1.
    pub(super) fn multiplier(&mut self, key: &str) -> Result<Option<f64>, Error> {
        let factor = self.optional_number(key)?;
        Ok(factor.filter(|factor| (factor - 1.0).abs() > f64::EPSILON))
    }

    /// Positive numbers in a list that must be there.
    pub(super) fn numbers(&mut self, key: &str) -> Result<Vec<f64>, Error> {
        let value = self.take(key).unwrap_or(Value::Null);
        let positive = |value: &Value| value.as_f64().filter(|number| *number > 0.0);
        let list = value
            .as_array()
            .and_then(|list| list.iter().map(positive).collect::<Option<Vec<_>>>());
        list.ok_or_else(|| {
            self.fault(
                key,
                format!("it is {value}, expected a list of positive numbers"),
            )
        })
    }

    /// A text, or none where it is absent or null.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, Error> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.fault(key, format!("it is {value}, expected a text"))),
        }
    }

    /// True or false.
    pub(super) fn flag(&mut self, key: &str, default: bool) -> Result<bool, Error> {
        let Some(value) = self.take(key) else {
            return Ok(default);
        };
        value
            .as_bool()
            .ok_or_else(|| self.fault(key, format!("it is {value}, expected true or false")))
    }

    /// Refuses a value that is none of those allowed. An absent one is the first of them.
    pub(super) fn must_be(&mut self, key: &str, allowed: &[Value]) -> Result<(), Error> {
        match self.take(key) {
            Some(value) if !allowed.contains(&value) => Err(self.fault(
                key,
                format!(
                    "it is {value}, which is not supported; expected {}",
                    allowed[0]
                ),
            )),
            _ => Ok(()),
        }
    }

    /// A probability below 1 by which training leaves something out; an absent key means 0.
    pub(super) fn dropout(&mut self, key: &str) -> Result<f64, Error> {
        let Some(value) = self.take(key) else {
            return Ok(0.0);
        };
        let rate = value.as_f64().filter(|rate| (0.0..1.0).contains(rate));
        rate.ok_or_else(|| {
            self.fault(
                key,
                format!("it is {value}, expected a number from 0 to below 1"),
            )
        })
    }

    /// Refuses a dropout that no model of the family was published with: training here has none at that place.
    pub(super) fn no_dropout(&mut self, key: &str) -> Result<(), Error> {
        self.must_be(key, &[0.into(), 0.0.into()])
    }

    /// An unknown key that is null, false or empty asks for nothing.
    pub(super) fn refuse_the_rest(&self) -> Result<(), Error> {
        let asks = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
        };
        let unknown = self
            .list
            .iter()
            .find(|(key, value)| !is_without_effect(key) && asks(value));
        match unknown {
            None => Ok(()),
            Some((key, value)) => {
                let text = value.to_string();
                let shown: String = text.chars().take(80).collect();
                Err(self.fault(
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
