//! How a stage of a job ended: `outcome.json` in the job's folder and, in fewer words, the pod's termination message.

use serde::{Deserialize, Serialize};

use crate::fine_tune_job::{BaseModelStatus, DatasetStatus, PlanStatus};

use super::progress::Progress;

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
    /// The folder's URI, ending in `/`. Empty in a termination message: it follows from the digest and the layout.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// `sha256:` and 64 hexadecimal digits of the bytes of `manifest.json`.
    pub digest: String,
}

/// How a stage ended.
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
    /// Of a failure: the manifest's field that is at fault, such as `spec.output.uri`, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
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
    /// The URI of the adapter as one GGUF file, within the adapter's folder (`output.ggufAdapter`). Absent in a termination
    /// message.
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
