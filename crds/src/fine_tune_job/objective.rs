//! What the loss of a FineTuneJob is.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Exactly one of `sft`, `dpo`.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.sft) != has(self.dpo)")
        .message("objective needs exactly one of sft and dpo"),
)]
pub struct Objective {
    /// Learn to say what the rows say: the mean loss of their tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sft: Option<Sft>,
    /// Learn which of two answers is preferred (Rafailov et al., 2023), from rows of format Preference. Needs method `lora` or
    /// `qlora`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpo: Option<Dpo>,
}

impl Objective {
    /// The name of the objective, where it learns from pairs of answers.
    pub fn of_pairs(&self) -> Option<&'static str> {
        // Taken apart without `..`: of a new objective somebody decides here which rows it learns from.
        let Self { sft: _, dpo } = self;
        dpo.is_some().then_some("dpo")
    }
}

/// Learn to say what the rows say.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Sft {}

/// Learn which of two answers is preferred. The reference is the base, or with `initialAdapter` the base with that one.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Dpo {
    /// How strongly the model is held to the reference: the larger, the closer it stays.
    #[schemars(range(min = 0.0, max = 100.0), extend("exclusiveMinimum" = true))]
    pub beta: f64,
}

impl Default for Dpo {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}
