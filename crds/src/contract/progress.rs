//! What `/progress` of a trainer answers.

use serde::{Deserialize, Serialize};

/// What a run is doing.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum RunPhase {
    /// Fetching and loading weights.
    #[default]
    Loading,
    /// In the training loop.
    Training,
    /// Computing the last validation loss and the golden file.
    Evaluating,
    /// Uploading.
    Publishing,
}

/// A run's progress: a few numbers, small enough to be polled each second.
///
/// Losses are means over unmasked tokens, in nats. A number that does not exist yet, or is not finite, is absent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The UID of the FineTuneJob: a poller that finds another one must not believe the rest.
    pub uid: String,
    /// The attempt that reports.
    pub attempt: u32,
    /// What the run is doing.
    pub phase: RunPhase,
    /// Optimiser steps done.
    pub step: u64,
    /// Optimiser steps of the whole run; 0 until planned. A run that stops early has those that it made.
    pub total_steps: u64,
    /// Epochs done, with a fraction.
    pub epoch: f64,
    /// The loss of the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The last validation loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// With early stopping: the lowest validation loss so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_validation_loss: Option<f64>,
    /// The step that had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_step: Option<u64>,
    /// Steps whose loss stood out far above those before; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_spikes: Option<u64>,
    /// The learning rate of the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Tokens a second, over the last steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Tokens seen in all, padding not counted.
    #[serde(default)]
    pub tokens: u64,
    /// Seconds until the last step, at the present speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// The process's peak memory, in bytes: the device's where there is one, else resident memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// The step of the newest complete checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_step: Option<u64>,
    /// When it was completed, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_time: Option<String>,
}
