//! What is trained: all weights, or a low-rank adapter on a dense or a 4-bit base.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Exactly one of `full`, `lora`, `qlora`.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.full), has(self.lora), has(self.qlora)].filter(set, set).size() == 1")
        .message("method needs exactly one of full, lora and qlora"),
)]
pub struct Method {
    /// Train every weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<Full>,
    /// Train a low-rank adapter on a frozen base (Hu et al., 2021).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// The same on a base held in 4 bits (Dettmers et al., 2023).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qlora: Option<Qlora>,
}

impl Method {
    /// The method's name as the manifest has it.
    pub const fn name(&self) -> &'static str {
        if self.full.is_some() {
            "full"
        } else if self.lora.is_some() {
            "lora"
        } else {
            "qlora"
        }
    }
}

/// Train every weight.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Full {}

/// A low-rank adapter: W + (alpha / rank) · B · A, with the settings of PEFT's `LoraConfig`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lora {
    /// The rank r of A (r, in) and B (out, r).
    #[schemars(range(min = 1, max = 1024))]
    pub rank: i64,
    /// The numerator of the scale.
    #[schemars(range(min = 1, max = 65536))]
    pub alpha: i64,
    /// Other ranks for some modules, by a regular expression for the end of the full name, at a dot: `q_proj`,
    /// `layers.0.mlp.up_proj`. Where several match a module, the first in alphabetical order counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64), transform = ranks)]
    pub rank_pattern: BTreeMap<String, i64>,
    /// Other alphas for some modules, named as in `rankPattern`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64), transform = alphas)]
    pub alpha_pattern: BTreeMap<String, i64>,
    /// Whether the scale is alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski, 2023), which keeps large ranks learning.
    pub use_rslora: bool,
    /// Whether a magnitude for each output is trained beside the direction (DoRA, Liu et al., 2024). A step takes longer.
    pub use_dora: bool,
    /// The probability with which an input of the adapter is left out in training.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub dropout: f64,
    /// Module names as PEFT takes them, matched at the end of the full name; `all-linear` means every linear layer but
    /// the output head.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 128)))]
    pub target_modules: Vec<String>,
}

fn ranks(schema: &mut schemars::Schema) {
    bounded_values(schema, 1024);
}

fn alphas(schema: &mut schemars::Schema) {
    bounded_values(schema, 65536);
}

/// Bounds the values of a map of whole numbers, which have no attribute of their own.
fn bounded_values(schema: &mut schemars::Schema, most: i64) {
    schema.insert(
        "additionalProperties".to_owned(),
        serde_json::json!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": most }),
    );
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            use_rslora: false,
            use_dora: false,
            dropout: 0.0,
            target_modules: vec!["all-linear".to_owned()],
        }
    }
}

/// A low-rank adapter on a 4-bit base.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Qlora {
    /// The rank r of A (r, in) and B (out, r).
    #[schemars(range(min = 1, max = 1024))]
    pub rank: i64,
    /// The numerator of the scale.
    #[schemars(range(min = 1, max = 65536))]
    pub alpha: i64,
    /// Other ranks for some modules, by a regular expression for the end of the full name, at a dot: `q_proj`,
    /// `layers.0.mlp.up_proj`. Where several match a module, the first in alphabetical order counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64), transform = ranks)]
    pub rank_pattern: BTreeMap<String, i64>,
    /// Other alphas for some modules, named as in `rankPattern`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64), transform = alphas)]
    pub alpha_pattern: BTreeMap<String, i64>,
    /// Whether the scale is alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski, 2023), which keeps large ranks learning.
    pub use_rslora: bool,
    /// Whether a magnitude for each output is trained beside the direction (DoRA, Liu et al., 2024). A step takes longer.
    pub use_dora: bool,
    /// The probability with which an input of the adapter is left out in training.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub dropout: f64,
    /// Module names as PEFT takes them, matched at the end of the full name; `all-linear` means every linear layer but
    /// the output head.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 128)))]
    pub target_modules: Vec<String>,
    /// How the base is held.
    pub quantization: Quantization,
}

impl Default for Qlora {
    fn default() -> Self {
        let lora = Lora::default();
        Self {
            rank: lora.rank,
            alpha: lora.alpha,
            rank_pattern: lora.rank_pattern,
            alpha_pattern: lora.alpha_pattern,
            use_rslora: lora.use_rslora,
            use_dora: lora.use_dora,
            dropout: lora.dropout,
            target_modules: lora.target_modules,
            quantization: Quantization::default(),
        }
    }
}

impl Qlora {
    /// The adapter alone, without what is said of the base.
    pub fn lora(&self) -> Lora {
        Lora {
            rank: self.rank,
            alpha: self.alpha,
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            dropout: self.dropout,
            target_modules: self.target_modules.clone(),
        }
    }
}

/// How a 4-bit base is held.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Quantization {
    /// The code.
    #[serde(rename = "type")]
    pub type_: QuantizationType,
    /// Whether the scales of the blocks are quantised too: 4.127 bits a weight instead of 4.5.
    pub double_quantization: bool,
}

impl Default for Quantization {
    fn default() -> Self {
        Self {
            type_: QuantizationType::NF4,
            double_quantization: true,
        }
    }
}

/// A 4-bit code.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum QuantizationType {
    /// Normal float, 4 bits: the quantiles of a normal distribution.
    #[default]
    NF4,
    /// A float of 4 bits: one sign bit, two of exponent, one of mantissa. For bases that are saved so; NF4 is more exact.
    FP4,
}
