//! `adapter_config.json`: the keys that PEFT 0.21 writes, in its order, and what of them is understood.

use std::collections::BTreeMap;
use std::path::Path;

use finetune_numerics::adapter::{Pattern, Scheme};
use serde_json::{Map, Value, json};

use super::Error;

/// The PEFT release whose layout is written.
const PEFT_VERSION: &str = "0.21.2";

/// Keys without effect on a finished adapter, whatever their value.
const WITHOUT_EFFECT: [&str; 11] = [
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "inference_mode",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// What an adapter's configuration says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// r.
    pub rank: i64,
    /// The numerator of the scale.
    pub alpha: f64,
    /// Other ranks for some modules.
    pub rank_pattern: BTreeMap<String, i64>,
    /// Other alphas for some modules.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Whether the scale is alpha / sqrt(r) instead of alpha / r.
    pub rank_stabilized: bool,
    /// Whether each adapted module has a magnitude vector.
    pub dora: bool,
    /// The rate of dropout in training. Without effect on a finished adapter.
    pub dropout: f64,
    /// Module names, each matched at the end of a module's full name.
    pub target_modules: Vec<String>,
    /// The base, for people.
    pub base_model: Option<String>,
    /// Its commit, where it lies on the Hugging Face Hub.
    pub revision: Option<String>,
}

impl AdapterConfig {
    /// The ranks and scales of the modules.
    pub fn scheme(&self) -> Result<Scheme, String> {
        Ok(Scheme {
            rank: self.rank,
            alpha: self.alpha,
            rank_stabilized: self.rank_stabilized,
            rank_pattern: Pattern::new(&self.rank_pattern)
                .map_err(|error| format!("`rank_pattern` {error}"))?,
            alpha_pattern: Pattern::new(&self.alpha_pattern)
                .map_err(|error| format!("`alpha_pattern` {error}"))?,
        })
    }

    /// Whether the module with this full name is adapted.
    pub fn targets(&self, module: &str) -> bool {
        self.target_modules.iter().any(|word| {
            module == word
                || module
                    .strip_suffix(word.as_str())
                    .is_some_and(|head| head.ends_with('.'))
        })
    }

    /// The bytes that PEFT would write for this adapter.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut target_modules = self.target_modules.clone();
        target_modules.sort();
        let alphas: BTreeMap<&String, Value> = self
            .alpha_pattern
            .iter()
            .map(|(pattern, alpha)| (pattern, number(*alpha)))
            .collect();
        let config = json!({
            "alora_invocation_tokens": null,
            "alpha_pattern": alphas,
            "arrow_config": null,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "corda_config": null,
            "ensure_weight_tying": false,
            "eva_config": null,
            "exclude_modules": null,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "kasa_config": null,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_alpha": number(self.alpha),
            "lora_bias": false,
            "lora_dropout": self.dropout,
            "lora_ga_config": null,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": null,
            "monteclora_config": null,
            "peft_type": "LORA",
            "peft_version": PEFT_VERSION,
            "qalora_group_size": 16,
            "r": self.rank,
            "rank_pattern": self.rank_pattern,
            "revision": self.revision,
            "target_modules": target_modules,
            "target_parameters": null,
            "task_type": "CAUSAL_LM",
            "trainable_token_indices": null,
            "use_bdlora": null,
            "use_dora": self.dora,
            "use_qalora": false,
            "use_rslora": self.rank_stabilized,
            "velora_config": null,
        });
        // serde_json's maps are sorted by key, as PEFT's file is.
        serde_json::to_vec_pretty(&config).unwrap_or_default()
    }

    /// Parses the bytes of the file at `path`.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let fault = |message: String| Error::Config {
            path: path.to_owned(),
            message,
        };
        let keys: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| fault(format!("it is no JSON object: {error}")))?;
        let config = Keys(keys).config().map_err(fault)?;
        config.scheme().map_err(fault)?;
        Ok(config)
    }
}

/// PEFT writes a number as it was given, and `alpha` of a manifest is whole.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

fn rank(key: &str, value: &Value) -> Result<i64, String> {
    value
        .as_i64()
        .filter(|rank| (1..=65536).contains(rank))
        .ok_or_else(|| format!("`{key}` is {value}, expected an integer from 1 to 65536"))
}

fn alpha(key: &str, value: &Value) -> Result<f64, String> {
    value
        .as_f64()
        .filter(|alpha| *alpha > 0.0)
        .ok_or_else(|| format!("`{key}` is {value}, expected a positive number"))
}

/// The keys that are not understood yet.
struct Keys(Map<String, Value>);

impl Keys {
    fn config(mut self) -> Result<AdapterConfig, String> {
        match self.take("peft_type") {
            Some(Value::String(kind)) if kind == "LORA" => {}
            Some(other) => {
                return Err(format!(
                    "`peft_type` is {other}, which is not supported; expected \"LORA\""
                ));
            }
            None => return Err("`peft_type` is absent, expected \"LORA\"".to_owned()),
        }
        let config = AdapterConfig {
            rank: rank("r", &self.take("r").unwrap_or(json!(8)))?,
            alpha: alpha("lora_alpha", &self.take("lora_alpha").unwrap_or(json!(8)))?,
            rank_pattern: self.pattern("rank_pattern", rank)?,
            alpha_pattern: self.pattern("alpha_pattern", alpha)?,
            rank_stabilized: self.flag("use_rslora")?,
            dora: self.flag("use_dora")?,
            dropout: self.dropout()?,
            target_modules: self.target_modules()?,
            base_model: self
                .0
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .map(str::to_owned),
            revision: self
                .0
                .get("revision")
                .and_then(Value::as_str)
                .map(str::to_owned),
        };
        match self.take("bias") {
            None => {}
            Some(Value::String(bias)) if bias == "none" => {}
            Some(other) => {
                return Err(format!(
                    "`bias` is {other}, which is not supported; expected \"none\""
                ));
            }
        }
        self.initialisation()?;
        self.refuse_the_rest()?;
        Ok(config)
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    fn flag(&mut self, key: &str) -> Result<bool, String> {
        match self.take(key) {
            None => Ok(false),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| format!("`{key}` is {value}, expected true or false")),
        }
    }

    /// A map from patterns to what `value` makes of each entry.
    fn pattern<T>(
        &mut self,
        key: &str,
        value: fn(&str, &Value) -> Result<T, String>,
    ) -> Result<BTreeMap<String, T>, String> {
        let map = match self.take(key) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(map)) => map,
            Some(other) => {
                return Err(format!(
                    "`{key}` is {other}, expected a number for each pattern of module names"
                ));
            }
        };
        let entry = |(pattern, found): (String, Value)| -> Result<_, String> {
            let found = value(&format!("{key}.{pattern}"), &found)?;
            Ok((pattern, found))
        };
        map.into_iter().map(entry).collect()
    }

    fn dropout(&mut self) -> Result<f64, String> {
        let value = self.take("lora_dropout").unwrap_or(json!(0.0));
        value
            .as_f64()
            .filter(|rate| (0.0..=1.0).contains(rate))
            .ok_or_else(|| format!("`lora_dropout` is {value}, expected a number from 0 to 1"))
    }

    fn target_modules(&mut self) -> Result<Vec<String>, String> {
        let value = self.take("target_modules").unwrap_or(Value::Null);
        let words = value.as_array().and_then(|list| {
            list.iter()
                .map(|word| word.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        });
        words
            .filter(|words| !words.is_empty())
            .ok_or_else(|| format!("`target_modules` is {value}, expected a list of module names"))
    }

    /// Some ways to begin also change the base: the adapter alone then says nothing.
    fn initialisation(&mut self) -> Result<(), String> {
        match self.take("init_lora_weights") {
            None | Some(Value::Bool(_)) => Ok(()),
            Some(Value::String(name)) if name == "gaussian" || name == "orthogonal" => Ok(()),
            Some(other) => Err(format!(
                "`init_lora_weights` is {other}, which changes the base model too; expected true: convert the adapter \
                 with PEFT's `path_initial_model_for_weight_conversion`"
            )),
        }
    }

    /// A key that is null, false or empty asks for nothing.
    fn refuse_the_rest(&self) -> Result<(), String> {
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
                Err(format!(
                    "`{key}` is {shown}, which is not supported; expected it absent, false or empty"
                ))
            }
        }
    }
}
