//! How a stage of a job ended: `outcome.json` in the job's folder and, the same bytes, the pod's termination message.

use serde::{Deserialize, Serialize};

use crate::fine_tune_job::{BaseModelStatus, DatasetStatus, PlanStatus};

use super::progress::Progress;

/// The most bytes of a termination message that carries an outcome. The kubelet shares 12 KiB among all containers of a
/// pod.
pub const MAX_TERMINATION_MESSAGE: usize = 1536;

/// The stage that ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Stage {
    /// Checking and tokenising the data.
    Prepare,
    /// Training and publishing.
    Train,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum OutcomeReason {
    /// All done.
    Succeeded,
    /// The manifest, the data or the base is at fault.
    InvalidInput,
    /// A Secret or one of its keys is missing or refused.
    Credentials,
    /// An object or bucket is missing.
    NotFound,
    /// The store or the network failed.
    Unavailable,
    /// Stopped from outside after a checkpoint.
    Preempted,
    /// The device's memory does not suffice.
    OutOfMemory,
    /// The loss is no longer a number.
    Diverged,
    /// A newer attempt has claimed the job.
    Superseded,
    /// A fault of the trainer itself.
    Internal,
}

impl OutcomeReason {
    /// The word that conditions and Events carry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::InvalidInput => "InvalidInput",
            Self::Credentials => "Credentials",
            Self::NotFound => "NotFound",
            Self::Unavailable => "Unavailable",
            Self::Preempted => "Preempted",
            Self::OutOfMemory => "OutOfMemory",
            Self::Diverged => "Diverged",
            Self::Superseded => "Superseded",
            Self::Internal => "Internal",
        }
    }
}

/// What was published.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// The folder's URI, ending in `/`.
    pub uri: String,
    /// `sha256:` and 64 hexadecimal digits of the bytes of `manifest.json`.
    pub digest: String,
}

/// How a stage ended. Essentials come first, so that a message cut by a reader still says them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The stage.
    pub stage: Stage,
    /// Why it ended.
    pub reason: OutcomeReason,
    /// One or two sentences for a person: the field or file and line, the value, what was expected, the cure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The FineTuneJob's UID.
    #[serde(default)]
    pub uid: String,
    /// The digest of the manifest's `spec`: a folder that holds the outcome of another spec is refused.
    #[serde(default)]
    pub spec_digest: String,
    /// The version of the trainer that speaks. An operator of another version says which of the two is older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The attempt, from 1; 0 for `prepare`.
    #[serde(default)]
    pub attempt: u32,
    /// The adapter that was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Published>,
    /// The whole model that was published (method `full`, or beside the adapter `output.mergedModel`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Published>,
    /// The URI of the adapter as one GGUF file, within the adapter's folder (`output.ggufAdapter`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gguf_adapter: Option<String>,
    /// What the data is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetStatus>,
    /// What the base is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<BaseModelStatus>,
    /// What was decided for the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// The last progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Of `prepare`: what deserves a look in the data or the manifest, and stops nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Outcome {
    /// The outcome as a termination message: JSON of at most [`MAX_TERMINATION_MESSAGE`] bytes. What does not fit goes
    /// from the end: first the message is cut, then the optional parts are left out.
    pub fn termination_message(&self) -> String {
        let mut outcome = self.clone();
        let fits = |outcome: &Self| {
            serde_json::to_string(outcome)
                .ok()
                .filter(|text| text.len() <= MAX_TERMINATION_MESSAGE)
        };
        if let Some(text) = fits(&outcome) {
            return text;
        }
        outcome.message = cut(&outcome.message, 700);
        if let Some(text) = fits(&outcome) {
            return text;
        }
        outcome.warnings = first(&outcome.warnings, WARNINGS);
        if let Some(text) = fits(&outcome) {
            return text;
        }
        outcome.progress = None;
        outcome.plan = None;
        if let Some(text) = fits(&outcome) {
            return text;
        }
        outcome.dataset = None;
        outcome.base_model = None;
        outcome.message = cut(&outcome.message, 300);
        fits(&outcome).unwrap_or_default()
    }
}

/// The most bytes of warnings in a message that is short of room.
const WARNINGS: usize = 500;

/// The first warnings, each cut, of at most `bytes` bytes together, and how many more there are.
fn first(warnings: &[String], bytes: usize) -> Vec<String> {
    let mut left = bytes;
    let mut kept: Vec<String> = warnings
        .iter()
        .map(|warning| cut(warning, 200))
        .take_while(|warning| {
            let fits = warning.len() <= left;
            left = left.saturating_sub(warning.len());
            fits
        })
        .collect();
    if kept.len() < warnings.len() {
        kept.push(format!(
            "{} more, see {}",
            warnings.len() - kept.len(),
            super::layout::DATASET_REPORT
        ));
    }
    kept
}

/// At most `bytes` bytes of `text`, on a character's border.
fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_and_the_digest_stays() {
        let outcome = Outcome {
            stage: Stage::Train,
            reason: OutcomeReason::Succeeded,
            message: "é\"".repeat(4000),
            uid: "u".into(),
            spec_digest: "sha256:0".into(),
            version: None,
            attempt: 1,
            adapter: Some(Published {
                uri: "s3://a/".into(),
                digest: format!("sha256:{}", "0".repeat(64)),
            }),
            model: None,
            gguf_adapter: None,
            dataset: None,
            base_model: None,
            plan: None,
            progress: None,
            warnings: Vec::new(),
        };
        let text = outcome.termination_message();
        assert!(
            text.len() <= MAX_TERMINATION_MESSAGE,
            "{} bytes",
            text.len()
        );
        let read: Outcome = serde_json::from_str(&text).unwrap();
        assert_eq!(read.adapter, outcome.adapter);
    }

    #[test]
    fn many_warnings_are_cut_and_counted_and_nothing_else_goes_for_them() {
        let dataset = DatasetStatus {
            rows: 150,
            ..DatasetStatus::default()
        };
        let outcome: Outcome = serde_json::from_value(serde_json::json!({
            "stage": "Prepare", "reason": "Succeeded", "uid": "u", "specDigest": "sha256:0", "dataset": dataset,
            "warnings": vec!["a row is longer than it may be, and this sentence is, too; ".repeat(3); 30],
        }))
        .unwrap();
        let text = outcome.termination_message();
        assert!(
            text.len() <= MAX_TERMINATION_MESSAGE,
            "{} bytes",
            text.len()
        );
        let read: Outcome = serde_json::from_str(&text).unwrap();
        assert_eq!(read.dataset, Some(dataset));
        assert!(
            read.warnings.len() > 1
                && read
                    .warnings
                    .last()
                    .unwrap()
                    .ends_with("more, see dataset-report.json"),
            "{:?}",
            read.warnings
        );
    }
}
