//! How long, in what batches and how fast a FineTuneJob trains, and when it saves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long, in what batches, how fast.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!(has(self.epochs) && has(self.maxSteps))",
        "message": "training.epochs and training.maxSteps are both set, expected at most one",
    },
    {
        "rule": "!has(self.microBatchSize) || self.microBatchSize <= self.batchSize",
        "message": "training.microBatchSize is greater than training.batchSize, expected at most that",
    },
]))]
pub struct Training {
    /// Passes over the data. Absent, and `maxSteps` too: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub epochs: Option<i64>,
    /// Optimiser steps; the data wraps round.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_steps: Option<i64>,
    /// Rows an optimiser step. The last batch of an epoch is kept, however small.
    #[schemars(range(min = 1, max = 65536))]
    pub batch_size: i64,
    /// Rows a forward pass. Absent: as many as have 2,048 tokens together, and one at least. The result does not depend on it,
    /// but for what dropout and NEFTune draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub micro_batch_size: Option<i64>,
    /// The peak learning rate. Absent: 2e-4 for lora and qlora, 2e-5 for full.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 10.0), extend("exclusiveMinimum" = true))]
    pub learning_rate: Option<f64>,
    /// How the learning rate moves after the warm-up, as Hugging Face computes it.
    pub schedule: Schedule,
    /// The share of the steps, rounded up, over which the learning rate rises from 0. One step is always left after them, where
    /// Hugging Face leaves none: a run of a single step would otherwise learn nothing.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warmup_fraction: f64,
    /// AdamW's decoupled weight decay; not on biases and norms.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub weight_decay: f64,
    /// The norm to which the gradient of a step is clipped; 0 clips nothing.
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub max_gradient_norm: f64,
    /// How the optimiser holds its state.
    pub optimizer: Optimizer,
    /// The type of activations and of a dense base. A run keeps what `Auto` came to on the machine on which it began, wherever it
    /// goes on.
    pub compute_type: ComputeType,
    /// NEFTune (Jain et al., 2023): the strength of uniform noise on the embedded tokens in training, 5 to 15 in the paper. Absent:
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1000.0), extend("exclusiveMinimum" = true))]
    pub neftune_noise_alpha: Option<f64>,
    /// Whether rows are shuffled anew each epoch.
    pub shuffle: bool,
    /// The seed of the adapter's start, of the shuffling, and of dropout and NEFTune.
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub seed: i64,
    /// Ends the run once the validation loss no longer falls, and publishes the weights that had the lowest one. Absent:
    /// all steps are made, and the last weights are published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            epochs: None,
            max_steps: None,
            batch_size: 16,
            micro_batch_size: None,
            learning_rate: None,
            schedule: Schedule::Cosine,
            warmup_fraction: 0.03,
            weight_decay: 0.0,
            max_gradient_norm: 1.0,
            optimizer: Optimizer::AdamW,
            compute_type: ComputeType::Auto,
            neftune_noise_alpha: None,
            shuffle: true,
            seed: 42,
            early_stopping: None,
        }
    }
}

/// When a run ends before its last step.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EarlyStopping {
    /// Validations in a row that bring no improvement, after which the run ends.
    #[schemars(range(min = 1, max = 10_000))]
    pub patience: i64,
    /// An improvement is a loss lower by more than this than that of the last improvement, in nats.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub min_improvement: f64,
}

/// How the optimiser holds its state.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Optimizer {
    /// AdamW, two 32-bit numbers for each trained weight.
    #[default]
    AdamW,
    /// AdamW, two 8-bit codes for each trained weight, with a scale for every 256, as bitsandbytes has it. Embeddings and
    /// tensors of fewer than 4096 weights keep 32 bits.
    AdamW8bit,
}

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Schedule {
    /// Half a cosine, to 0.
    #[default]
    Cosine,
    /// A straight line, to 0.
    Linear,
    /// Not at all.
    Constant,
}

/// The type of activations and of a dense base.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ComputeType {
    /// `BFloat16` where the processor multiplies it faster, else `Float32`.
    #[default]
    Auto,
    /// 16-bit brain floating point.
    BFloat16,
    /// 32-bit floating point.
    Float32,
}

/// When state is saved.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Checkpoint {
    /// Steps between checkpoints. A run with no more steps than that makes one at each quarter of its steps, so that it has one
    /// before its end. One that fails, or whose predecessors cannot be deleted, is a warning and is tried again when the next
    /// one is due; the run ends once three in a row have failed and the newest is half an hour old.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub every_steps: i64,
    /// Seconds after which one is made even if the steps have not come round.
    #[schemars(range(min = 1, max = 604_800))]
    pub every_seconds: i64,
    /// How many complete ones are kept.
    #[schemars(range(min = 1, max = 100))]
    pub keep: i64,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            every_steps: 100,
            every_seconds: 600,
            keep: 2,
        }
    }
}
