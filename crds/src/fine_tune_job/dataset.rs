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
    validation = Rule::new("!has(self.columns) || !has(self.format) || self.format == 'Auto' || (\
        (!has(self.columns.messages) || self.format == 'Messages') && \
        (!has(self.columns.tools) || self.format in ['Messages', 'ShareGPT']) && \
        (!has(self.columns.prompt) || self.format in ['PromptCompletion', 'Preference']) && \
        (!has(self.columns.chosen) || self.format == 'Preference') && \
        (!has(self.columns.rejected) || self.format == 'Preference') && \
        (!has(self.columns.completion) || self.format == 'PromptCompletion') && \
        (!has(self.columns.text) || self.format == 'Text') && \
        (!has(self.columns.instruction) || self.format == 'Alpaca') && \
        (!has(self.columns.input) || self.format == 'Alpaca') && \
        (!has(self.columns.output) || self.format == 'Alpaca') && \
        (!has(self.columns.conversations) || self.format == 'ShareGPT') && \
        (!has(self.columns.system) || self.format in ['Alpaca', 'ShareGPT']) && \
        (!has(self.columns.history) || self.format == 'Alpaca'))")
        .message("dataset.columns names a column that dataset.format does not have: remove it, or set the format that has it"),
)]
pub struct Dataset {
    /// The files to train on, in order. A URI that ends in `/` means all files below it, in order of their names.
    #[schemars(length(min = 1, max = 64))]
    pub train: Vec<Source>,
    /// What to validate with. Absent: no validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// General data mixed in, so that the model forgets less of what it knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// The form of the rows. `Auto` reads it off the first row and says what it chose.
    #[serde(default)]
    pub format: Format,
    /// The names that the files have for the columns of the format: `prompt: question` reads the prompt from the column
    /// `question`. Absent: the format's own names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// Which tokens carry loss. Absent: the completion for PromptCompletion and Alpaca, every assistant turn for Messages
    /// and ShareGPT, all tokens for Text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_on: Option<LossOn>,
    /// Whether rows of PromptCompletion, Alpaca and Preference that are plain texts go through the base's chat template, the
    /// prompt as the user's turn and what is learnt as the assistant's, so that the model is trained as it is asked when it is served.
    #[serde(default, skip_serializing_if = "ChatTemplateUse::is_auto")]
    pub chat_template: ChatTemplateUse,
    /// Longer rows are cut on the right, counted and reported. Documents are cut into rows of this length.
    #[serde(default = "default_max_sequence_length")]
    #[schemars(range(min = 2, max = 1_048_576))]
    pub max_sequence_length: i64,
    /// Whether several rows are laid end to end, up to `maxSequenceLength` tokens, into one packed row, the rows of
    /// `training.batchSize`. They do not see each other, and each counts its positions from 0. Absent: they are packed
    /// where an epoch still has 100 optimiser steps and more, but not with objective `dpo` or `neftuneNoiseAlpha`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing: Option<bool>,
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
    /// `s3://bucket/file.jsonl`, or a prefix that ends in `/`; likewise `gs://bucket/…`, `az://container/…` and
    /// `pvc://claim/…` (a PersistentVolumeClaim of the namespace); `hf://datasets/owner/name/file.jsonl`, or a folder of a
    /// repository; `https://host/file.jsonl`. By hand also `file:///path`. The end of a file's name tells its format:
    /// `.json`, `.csv`, `.parquet`, `.txt`, `.md`; any other one is read as JSONL.
    #[schemars(length(min = 1, max = 1024), regex(pattern = crate::uris::ROWS))]
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

/// General data that is mixed in.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replay {
    /// The files to take rows from.
    #[schemars(length(min = 1, max = 64))]
    pub sources: Vec<Source>,
    /// The share of these rows among all rows to train on. They are chosen by a hash of their content. Where the files
    /// hold too few, all are taken, none twice, and the report says so.
    #[schemars(range(min = 0.001, max = 0.5))]
    pub fraction: f64,
    /// The form of these rows, which need not be that of the others. `Auto` reads it off the first row.
    #[serde(default)]
    pub format: Format,
}

/// The names that the files have for the columns of the format. Those that are absent have the format's own names.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Columns {
    /// Messages: the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub messages: Option<String>,
    /// Messages, ShareGPT: the descriptions of functions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub tools: Option<String>,
    /// PromptCompletion, Preference: what is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub prompt: Option<String>,
    /// PromptCompletion: what is learnt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub completion: Option<String>,
    /// Preference: the answer that is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub chosen: Option<String>,
    /// Preference: the other answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub rejected: Option<String>,
    /// Text: the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub text: Option<String>,
    /// Alpaca: what is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub instruction: Option<String>,
    /// Alpaca: what it is to be done with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub input: Option<String>,
    /// Alpaca: what is learnt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub output: Option<String>,
    /// ShareGPT: the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub conversations: Option<String>,
    /// ShareGPT, Alpaca: a system turn before the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub system: Option<String>,
    /// Alpaca: earlier questions and answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub history: Option<String>,
}

impl Columns {
    /// The name that the files have for the format's column `name`; `None` where it is the same.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// All columns that are named, as (the format's name, the files' name).
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        // Taken apart without `..`: a column that is not listed would be named, and not read.
        let Self {
            messages,
            tools,
            prompt,
            completion,
            chosen,
            rejected,
            text,
            instruction,
            input,
            output,
            conversations,
            system,
            history,
        } = self;
        [
            ("messages", messages),
            ("tools", tools),
            ("prompt", prompt),
            ("completion", completion),
            ("chosen", chosen),
            ("rejected", rejected),
            ("text", text),
            ("instruction", instruction),
            ("input", input),
            ("output", output),
            ("conversations", conversations),
            ("system", system),
            ("history", history),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }
}

/// The form of the rows.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Format {
    /// Read off the first row.
    #[default]
    Auto,
    /// `{"messages": [{"role": …, "content": …}, …], "tools": […]}`.
    Messages,
    /// `{"prompt": …, "completion": …}`.
    PromptCompletion,
    /// `{"text": …}`, or a document.
    Text,
    /// `{"instruction": …, "input": …, "output": …}`.
    Alpaca,
    /// `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}`.
    ShareGPT,
    /// `{"prompt": …, "chosen": …, "rejected": …}`, each a text or a list of messages: for objective `dpo`.
    Preference,
}

/// Whether prompts and answers that are plain texts go through the base's chat template.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ChatTemplateUse {
    /// Where the base has one.
    #[default]
    Auto,
    /// The texts are put together as they stand.
    Never,
}

impl ChatTemplateUse {
    /// Whether it is the default, which a spec leaves out.
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde calls"
    )]
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// Which tokens carry loss. Absent: `Completion` for PromptCompletion, Alpaca and Preference, `Assistant` for Messages and
/// ShareGPT, `All` for Text. Text takes `All` only, Preference `Completion` only, and PromptCompletion and Alpaca do not take
/// `Assistant`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum LossOn {
    /// The completion; of Messages the last assistant turn.
    Completion,
    /// Every assistant turn.
    Assistant,
    /// Every token.
    All,
}
