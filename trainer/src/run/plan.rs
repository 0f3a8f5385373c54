//! What is decided before a run: steps, batches, learning rate. Pure.

use std::time::Duration;

use finetune_crds::fine_tune_job as manifest;
use finetune_crds::fine_tune_job::PlanStatus;
use finetune_dataset::{Batches, MicroBatchSize, micro_batches, pack};
use finetune_numerics::optimizer::{OptimizerKind, Schedule, learning_rate};

use crate::job::{Job, TrainingMethod, TrainingObjective};

/// Tokens a forward pass where the manifest does not say: products are as fast as with more, and memory does not grow with the
/// length of rows or their number.
const MICRO_BATCH_TOKENS: usize = 2048;

/// Where the manifest does not say, rows are packed if an epoch then still has so many optimiser steps: with fewer, the
/// learning rate would have no time to rise and fall.
const PACKED_STEPS: u64 = 100;

/// Where a run has no more steps than lie between two checkpoints, it has so many of them: it would otherwise save nothing
/// before its end.
const FEWEST_CHECKPOINTS: u64 = 4;

/// The way in which rows are packed, shuffled and dealt to steps. It is counted up with every change after which the same
/// manifest and data give other steps, so that a run that goes on across such a change says so.
pub const DEALING: u32 = 1;

/// The numbers that a run follows.
#[derive(Clone, Debug)]
pub struct Plan {
    /// full, lora or qlora.
    pub method: &'static str,
    /// Which rows each step takes; packed rows, where there are any.
    pub batches: Batches,
    /// The rows of each packed row; absent where rows are not packed.
    pub packs: Option<Vec<Vec<usize>>>,
    /// Rows an optimiser step; the last of an epoch may have fewer.
    pub batch_size: usize,
    /// How much of a step a forward pass takes.
    pub micro_batch_size: MicroBatchSize,
    /// Of the first epoch, the most rows of a pass and the most passes of a step.
    pub most_rows_and_passes: (usize, usize),
    /// Optimiser steps of the run.
    pub total_steps: u64,
    /// Steps over which the learning rate rises.
    pub warmup_steps: u64,
    /// Its peak.
    pub learning_rate: f64,
    /// Its way.
    pub schedule: Schedule,
    /// Steps between validations; `None` without validation data.
    pub validation_every: Option<u64>,
    /// How the optimiser holds its state.
    pub optimizer: OptimizerKind,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// The norm to which the gradient of a step is clipped; 0 clips nothing.
    pub max_gradient_norm: f64,
    /// What all that is random follows from: the adapter's start, the shuffling, dropout, noise.
    pub seed: u64,
    /// When the state is saved.
    pub checkpoints: CheckpointPlan,
}

/// When the state of a run is saved, and how much of it is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CheckpointPlan {
    /// Steps between checkpoints.
    pub every_steps: u64,
    /// The longest time between them.
    pub every: Duration,
    /// Complete ones that are kept.
    pub keep: usize,
}

impl Plan {
    /// The plan for training rows of these lengths (of preferences two make a pair, which is what a step counts) and, where
    /// `has_validation`, some validation rows.
    pub fn new(job: &Job, lengths: &[usize], has_validation: bool) -> Self {
        let (spec, training) = (&job.spec, &job.spec.training);
        let seed = training.seed as u64;
        let batch_size = training.batch_size.max(1) as usize;
        let batches_of = |rows| Batches::new(rows, batch_size, seed, training.shuffle);
        let packs = packs(job, lengths, &|packs| batches_of(packs).steps_per_epoch());
        let batches = batches_of(match (&packs, job.objective) {
            (Some(packs), _) => packs.len(),
            (None, TrainingObjective::Sft) => lengths.len(),
            (None, TrainingObjective::Dpo { .. }) => lengths.len() / 2,
        });
        let most_rows_and_passes = most_rows_and_passes(job, &batches, packs.as_deref(), lengths);
        let total_steps = batches.total_steps(
            training.epochs.map(|epochs| epochs as u64),
            training.max_steps.map(|steps| steps as u64),
        );
        let once_an_epoch = batches.steps_per_epoch();
        let default_learning_rate = match job.method {
            TrainingMethod::Full => 2e-5,
            TrainingMethod::Lora(_) | TrainingMethod::Qlora { .. } => 2e-4,
        };
        let validation = spec.dataset.validation.as_ref();
        let every_steps = validation.and_then(|validation| validation.every_steps);
        Self {
            method: job.method.name(),
            batches,
            packs,
            batch_size,
            micro_batch_size: micro_batch_size(job),
            most_rows_and_passes,
            total_steps,
            // transformers rounds up too, but may leave no step after the warm-up: of a single step that would be the one with
            // rate 0.
            warmup_steps: ((total_steps as f64 * training.warmup_fraction).ceil() as u64)
                .min(total_steps.saturating_sub(1)),
            learning_rate: training.learning_rate.unwrap_or(default_learning_rate),
            schedule: schedule(training.schedule),
            validation_every: has_validation
                .then(|| every_steps.map_or(once_an_epoch, |steps| steps as u64)),
            optimizer: optimizer(training.optimizer),
            weight_decay: training.weight_decay,
            max_gradient_norm: training.max_gradient_norm,
            seed,
            checkpoints: CheckpointPlan {
                every_steps: checkpoint_every(spec.checkpoint.every_steps as u64, total_steps),
                every: Duration::from_secs(spec.checkpoint.every_seconds as u64),
                keep: spec.checkpoint.keep as usize,
            },
        }
    }

    /// The documents of each of these rows of a batch: the row itself, or those that are packed into it.
    pub fn documents(&self, rows: &[usize]) -> Vec<Vec<usize>> {
        documents(self.packs.as_deref(), rows)
    }

    /// The learning rate that step `step`, from 0, uses.
    pub fn learning_rate_of_step(&self, step: u64) -> f64 {
        let (schedule, peak) = (self.schedule, self.learning_rate);
        learning_rate(schedule, peak, step, self.warmup_steps, self.total_steps)
    }

    /// Whether the validation loss is due after `step`. The loss after the last step always is.
    pub fn validates_after(&self, step: u64) -> bool {
        self.validation_every
            .is_some_and(|every| step == self.total_steps || step.is_multiple_of(every))
    }

    /// The plan as the job's status shows it.
    pub fn status(&self, trainable_parameters: Option<i64>) -> PlanStatus {
        PlanStatus {
            method: self.method.to_owned(),
            learning_rate: format!("{:e}", self.learning_rate),
            micro_batch_size: self.most_rows_and_passes.0 as i64,
            gradient_accumulation: self.most_rows_and_passes.1 as i64,
            trainable_parameters,
            total_steps: self.total_steps as i64,
            packed_rows: self.packs.as_ref().map(|packs| packs.len() as i64),
            checkpoint_every_steps: Some(self.checkpoints.every_steps as i64),
            compute_type: None,
        }
    }
}

/// How much of a step a forward pass takes.
pub fn micro_batch_size(job: &Job) -> MicroBatchSize {
    let training = &job.spec.training;
    match (training.micro_batch_size, job.objective) {
        (Some(rows), _) => MicroBatchSize::Rows(rows as usize),
        (None, TrainingObjective::Sft) => MicroBatchSize::Tokens {
            most: MICRO_BATCH_TOKENS,
            padded: training.neftune_noise_alpha.is_some(),
        },
        // One answer a pass.
        (None, TrainingObjective::Dpo { .. }) => MicroBatchSize::Rows(1),
    }
}

/// Of the first epoch's steps, the most rows of a pass and the most passes.
fn most_rows_and_passes(
    job: &Job,
    batches: &Batches,
    packs: Option<&[Vec<usize>]>,
    lengths: &[usize],
) -> (usize, usize) {
    if let TrainingObjective::Dpo { .. } = job.objective {
        return (1, job.spec.training.batch_size.max(1) as usize);
    }
    let mut batches = batches.clone();
    let (mut most_rows, mut most_passes) = (1, 1);
    for step in 0..batches.steps_per_epoch() {
        let rows = documents(packs, batches.rows_of_step(step));
        let tokens_of = |row: usize| lengths.get(row).copied().unwrap_or_default();
        let passes = micro_batches(&rows, tokens_of, micro_batch_size(job));
        most_passes = most_passes.max(passes.len());
        most_rows = passes.iter().map(Vec::len).fold(most_rows, usize::max);
    }
    (most_rows, most_passes)
}

/// The documents of each of these rows of a batch.
fn documents(packs: Option<&[Vec<usize>]>, rows: &[usize]) -> Vec<Vec<usize>> {
    let rows = rows.iter();
    match packs {
        Some(packs) => rows.map(|row| packs[*row].clone()).collect(),
        None => rows.map(|row| vec![*row]).collect(),
    }
}

/// The rows of each packed row, where rows are packed; `steps_of` says how many steps an epoch of so many of them has.
fn packs(job: &Job, lengths: &[usize], steps_of: &dyn Fn(usize) -> u64) -> Option<Vec<Vec<usize>>> {
    let dataset = &job.spec.dataset;
    let wanted = match job.objective {
        TrainingObjective::Dpo { .. } => Some(false),
        TrainingObjective::Sft if job.spec.training.neftune_noise_alpha.is_some() => Some(false),
        TrainingObjective::Sft => dataset.packing,
    };
    let packs = || pack(lengths, dataset.max_sequence_length as usize);
    match wanted {
        Some(false) => None,
        Some(true) => Some(packs()),
        None => Some(packs()).filter(|packs| steps_of(packs.len()) >= PACKED_STEPS),
    }
}

/// Steps between checkpoints where the manifest says `wanted`.
fn checkpoint_every(wanted: u64, total_steps: u64) -> u64 {
    match wanted < total_steps {
        true => wanted,
        false => total_steps.div_ceil(FEWEST_CHECKPOINTS),
    }
    .max(1)
}

const fn optimizer(optimizer: manifest::Optimizer) -> OptimizerKind {
    match optimizer {
        manifest::Optimizer::AdamW => OptimizerKind::AdamW,
        manifest::Optimizer::AdamW8bit => OptimizerKind::AdamW8bit,
    }
}

const fn schedule(schedule: manifest::Schedule) -> Schedule {
    match schedule {
        manifest::Schedule::Cosine => Schedule::Cosine,
        manifest::Schedule::Linear => Schedule::Linear,
        manifest::Schedule::Constant => Schedule::Constant,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use finetune_crds::fine_tune_job::Validation;

    use super::*;
    use crate::manifest_file;

    fn job() -> Job {
        let manifest = "apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: { name: tiny }
spec:
  baseModel: { uri: file:///base/ }
  dataset: { train: [ { uri: file:///train.jsonl } ] }
  method: { lora: {} }
";
        manifest_file::parse(manifest, Path::new("job.yaml")).unwrap()
    }

    #[test]
    fn the_last_batch_of_an_epoch_is_kept() {
        let plan = Plan::new(&job(), &[1; 33], false);
        assert_eq!((plan.batches.steps_per_epoch(), plan.total_steps), (3, 9));
        assert_eq!(plan.status(None).gradient_accumulation, 1);
    }

    #[test]
    fn the_status_says_how_many_rows_a_pass_and_how_many_passes_a_step_have_at_most() {
        let of = |job: &Job, lengths: &[usize]| {
            let status = Plan::new(job, lengths, false).status(None);
            (status.micro_batch_size, status.gradient_accumulation)
        };
        let mut job = job();
        assert_eq!(of(&job, &[512; 33]), (4, 4));
        assert_eq!(of(&job, &[4096; 33]), (1, 16));
        assert_eq!(of(&job, &[1; 33]), (16, 1));
        job.spec.training.neftune_noise_alpha = Some(5.0);
        // Padded to the longest of their pass.
        let mixed: Vec<usize> = (0..16)
            .map(|row| if row == 0 { 2048 } else { 1024 })
            .collect();
        assert_eq!(of(&job, &mixed), (2, 9));
        job.spec.training.micro_batch_size = Some(3);
        assert_eq!(of(&job, &[512; 33]), (3, 6));
    }

    #[test]
    fn warm_up_is_rounded_up() {
        let mut job = job();
        job.spec.training.max_steps = Some(34);
        assert_eq!(Plan::new(&job, &[1], false).warmup_steps, 2);
    }

    #[test]
    fn a_step_is_left_after_the_warm_up() {
        let mut job = job();
        for (steps, fraction, expected) in [(1, 0.03, 0), (1, 1.0, 0), (2, 1.0, 1), (34, 0.03, 2)] {
            job.spec.training.max_steps = Some(steps);
            job.spec.training.warmup_fraction = fraction;
            assert_eq!(Plan::new(&job, &[1], false).warmup_steps, expected);
        }
    }

    #[test]
    fn a_run_that_would_save_nothing_before_its_end_saves_at_each_quarter() {
        let every = |steps| checkpoint_every(100, steps);
        assert_eq!([1, 2, 6, 100].map(every), [1, 1, 2, 25]);
        assert_eq!([101, 250, 10_000].map(every), [100, 100, 100]);
        let mut job = job();
        job.spec.training.max_steps = Some(6);
        let plan = Plan::new(&job, &[1], false);
        assert_eq!(plan.status(None).checkpoint_every_steps, Some(2));
    }

    #[test]
    fn full_has_a_smaller_learning_rate() {
        let mut job = job();
        assert_eq!(
            Plan::new(&job, &[1], false).status(None).learning_rate,
            "2e-4"
        );
        job.method = TrainingMethod::Full;
        assert_eq!(
            Plan::new(&job, &[1], false).status(None).learning_rate,
            "2e-5"
        );
    }

    #[test]
    fn validation_comes_once_an_epoch_and_after_the_last_step() {
        let mut job = job();
        job.spec.training.max_steps = Some(7);
        job.spec.dataset.validation = Some(Validation::default());
        let plan = Plan::new(&job, &[1; 40], true);
        let due: Vec<u64> = (1..=7).filter(|step| plan.validates_after(*step)).collect();
        assert_eq!(due, [3, 6, 7]);
        assert!(!Plan::new(&job, &[1; 40], false).validates_after(7));
    }

    fn of_first_step(plan: &Plan) -> Vec<Vec<usize>> {
        plan.documents(plan.batches.clone().rows_of_step(0))
    }

    #[test]
    fn packed_rows_are_the_rows_of_a_batch() {
        let mut job = job();
        job.spec.training.shuffle = false;
        job.spec.dataset.packing = Some(true);
        job.spec.dataset.max_sequence_length = 4;
        let plan = Plan::new(&job, &[3, 1, 2, 2, 4], false);
        assert_eq!(plan.status(None).packed_rows, Some(3));
        assert_eq!(plan.total_steps, 3);
        assert_eq!(of_first_step(&plan), [vec![0, 1], vec![2, 3], vec![4]]);
        job.spec.dataset.packing = Some(false);
        let plan = Plan::new(&job, &[3, 1, 2, 2, 4], false);
        assert_eq!(plan.status(None).packed_rows, None);
        assert_eq!(of_first_step(&plan), [[0], [1], [2], [3], [4]]);
    }

    #[test]
    fn without_a_word_rows_are_packed_where_enough_steps_remain() {
        let mut job = job();
        job.spec.training.batch_size = 2;
        job.spec.dataset.max_sequence_length = 4;
        let few = Plan::new(&job, &[2; 396], false);
        assert_eq!((few.packs, few.batches.steps_per_epoch()), (None, 198));
        let many = Plan::new(&job, &[2; 400], false);
        assert_eq!(many.packs.map(|packs| packs.len()), Some(200));
        assert_eq!(many.batches.steps_per_epoch(), 100);
    }
}
