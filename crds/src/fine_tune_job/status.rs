//! What a FineTuneJob says of itself. Numbers that are not whole are strings of fixed precision, never NaN.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a FineTuneJob says of itself.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FineTuneJobStatus {
    /// The generation that the rest speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the job is.
    #[serde(skip_serializing_if = "JobPhase::is_unsaid")]
    pub phase: Option<JobPhase>,
    /// Why it is there, in one word, where there is something to say: the reason of Failed, or why no pod runs, or why the
    /// result is not handed over. The condition of that reason has the whole sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `DatasetValid`: the data was read, checked and tokenised; its message has the warnings. `PodsRunning`: whether the
    /// stage's pod runs, and why not. `ProgressReported`: whether the trainer's progress can be read. `Published`: the result
    /// lies in object storage and its Adapter has it. `Complete`: the job has ended well. `Failed`: it has ended badly.
    /// `Stalled` and `Reconciling`: as kstatus reads them, that it will not get better by itself, and that the controller is
    /// still at work. `Malformed`: the operator cannot read the object.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What the data is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetStatus>,
    /// What the base is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<BaseModelStatus>,
    /// What was decided for the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// The newest complete checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointStatus>,
    /// The last ten pods that trained.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub attempts: Vec<Attempt>,
    /// Pods of the present stage that failed and count against `maxRetries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<i32>,
    /// What came out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultStatus>,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum JobPhase {
    /// Seen; nothing started.
    #[default]
    Pending,
    /// Data and base are being checked.
    Preparing,
    /// The train pod waits for a node or a queue.
    Queued,
    /// In the training loop, or loading weights for it.
    Training,
    /// Computing the last losses.
    Evaluating,
    /// Uploading.
    Publishing,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// A word of another version of the operator. Read only: never written, and no part of the schema.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl JobPhase {
    /// Every phase that a job can enter.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Preparing,
        Self::Queued,
        Self::Training,
        Self::Evaluating,
        Self::Publishing,
        Self::Succeeded,
        Self::Failed,
    ];

    /// Whether there is nothing to be written.
    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands the field over so"
    )]
    fn is_unsaid(phase: &Option<Self>) -> bool {
        matches!(phase, None | Some(Self::Unknown))
    }

    /// Whether the job has ended.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// The word that the column shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Preparing => "Preparing",
            Self::Queued => "Queued",
            Self::Training => "Training",
            Self::Evaluating => "Evaluating",
            Self::Publishing => "Publishing",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_of_a_later_version_is_read_and_never_written() {
        let stored = serde_json::json!({ "phase": "Suspended" });
        let status: FineTuneJobStatus = serde_json::from_value(stored).unwrap();
        assert_eq!(status.phase, Some(JobPhase::Unknown));
        assert!(!JobPhase::Unknown.is_finished());
        assert_eq!(
            serde_json::to_value(&status).unwrap(),
            serde_json::json!({})
        );
    }
}

/// What the data is.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DatasetStatus {
    /// `sha256:` and 64 hexadecimal digits over the names and digests of all files.
    pub digest: String,
    /// The form of the rows, as found or as told.
    pub format: String,
    /// Rows to train on.
    pub rows: i64,
    /// Their tokens.
    pub tokens: i64,
    /// Those that carry loss.
    pub trainable_tokens: i64,
    /// Rows that were cut.
    pub truncated_rows: i64,
    /// Rows whose content was there before.
    pub duplicate_rows: i64,
    /// Rows held back.
    pub validation_rows: i64,
    /// Rows to validate with that are trained on too, word for word or nearly so.
    pub leaked_rows: i64,
    /// Rows of general data among those to train on.
    pub replay_rows: i64,
}

/// What the base is.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BaseModelStatus {
    /// What the store said of its files before they were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// With hf://, the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The digest of its files, known once they were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Such as `LlamaForCausalLM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The number of weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<i64>,
}

/// What was decided for the run.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlanStatus {
    /// full, lora or qlora.
    pub method: String,
    /// The peak learning rate.
    pub learning_rate: String,
    /// The most rows of a forward pass.
    pub micro_batch_size: i64,
    /// The most forward passes of an optimiser step.
    pub gradient_accumulation: i64,
    /// The number of weights that are trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainable_parameters: Option<i64>,
    /// Optimiser steps.
    pub total_steps: i64,
    /// Rows after packing; absent where rows are not packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed_rows: Option<i64>,
    /// Optimiser steps between checkpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_steps: Option<i64>,
    /// The type in which the run computes, also where it goes on on another machine; known once it trains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_type: Option<String>,
}

/// How far a run is.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProgressStatus {
    /// Optimiser steps done.
    pub step: i64,
    /// Optimiser steps of the whole run.
    pub total_steps: i64,
    /// Such as `42%`.
    pub percent: String,
    /// Epochs done, to two places.
    pub epoch: String,
    /// The loss of the last step, to four places.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// The last validation loss, to four places.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<String>,
    /// With early stopping: the lowest validation loss so far, to four places.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_validation_loss: Option<String>,
    /// The step that had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_step: Option<i64>,
    /// Steps whose loss stood out far above those before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_spikes: Option<i64>,
    /// The learning rate of the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<String>,
    /// Tokens a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<String>,
    /// Tokens seen in all.
    pub tokens: i64,
    /// Time to the last step, such as `12m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<String>,
    /// Such as `6.9Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<String>,
}

/// The newest complete checkpoint.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckpointStatus {
    /// Its step.
    pub step: i64,
    /// When it was completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}

/// One pod that trained.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attempt {
    /// The pod's name.
    pub pod: String,
    /// How it ended; absent while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The last step that it reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// The step of the newest complete checkpoint by then. Two pods that ran out of memory with the same one end the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_step: Option<i64>,
    /// When its container started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
}

/// What came out.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResultStatus {
    /// The adapter's digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter_digest: Option<String>,
    /// The whole model's digest (method `full`, or `output.mergedModel`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_digest: Option<String>,
    /// Where the adapter or the model lies.
    pub uri: String,
    /// Where the base with the adapter merged into it lies (`output.mergedModel`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged_model_uri: Option<String>,
    /// Where the adapter lies as one file for llama.cpp (`output.ggufAdapter`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gguf_adapter_uri: Option<String>,
    /// The Adapter that got it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter_name: Option<String>,
    /// Where the job's own files lie: plan, metrics, outcome.
    pub job_uri: String,
}
