//! The data of a FineTuneJob.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::shared::SecretReference;

/// The data to train on and to validate with.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.appendEndOfSequence) || (has(self.format) && self.format == 'Text')")
        .message("dataset.appendEndOfSequence applies to format Text only: set format: Text or remove it"),
)]
pub struct Dataset {
    /// The files to train on, in order. A URI that ends in `/` means all files below it, in order of their names.
    #[schemars(length(min = 1, max = 64))]
    pub train: Vec<Source>,
    /// What to validate with. Absent: no validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// The form of the rows. `Auto` reads it off the first row and says what it chose.
    #[serde(default)]
    pub format: Format,
    /// Which tokens carry loss. Absent: the completion for PromptCompletion, every assistant turn for Messages, all
    /// tokens for Text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_on: Option<LossOn>,
    /// Longer rows are cut on the right, counted and reported.
    #[serde(default = "default_max_sequence_length")]
    #[schemars(range(min = 2, max = 1_048_576))]
    pub max_sequence_length: i64,
    /// With Text: whether the end-of-sequence token is added to each row. Absent: it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_end_of_sequence: Option<bool>,
    /// The Secret to read the data with. Absent: the pod's own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretReference>,
}

const fn default_max_sequence_length() -> i64 {
    2048
}

/// One file or prefix.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// `s3://bucket/file.jsonl`, or a prefix that ends in `/`; `hf://datasets/owner/name/file.jsonl`, or a folder of a
    /// repository; `https://host/file.jsonl`. By hand also `file:///path`.
    #[schemars(
        length(min = 1, max = 1024),
        regex(
            pattern = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.*|hf://[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_].*|https://[^/@]+/.*[^/])$"
        )
    )]
    pub uri: String,
}

/// Rows held back from training.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.fraction) != has(self.sources)")
        .message("dataset.validation needs exactly one of fraction and sources"),
)]
pub struct Validation {
    /// The share of the training rows to hold back, chosen by a hash of each row's content: the same row is always on
    /// the same side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 0.5))]
    pub fraction: Option<f64>,
    /// Files of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub sources: Option<Vec<Source>>,
    /// Steps between validations. Absent: once an epoch. The loss after the last step is always computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub every_steps: Option<i64>,
}

/// The form of the rows.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Format {
    /// Read off the first row.
    #[default]
    Auto,
    /// `{"messages": [{"role": …, "content": …}, …]}`.
    Messages,
    /// `{"prompt": …, "completion": …}`.
    PromptCompletion,
    /// `{"text": …}`.
    Text,
}

/// Which tokens carry loss.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum LossOn {
    /// The completion; of Messages the last assistant turn.
    Completion,
    /// Every assistant turn.
    Assistant,
    /// Every token.
    All,
}
