//! What is decided before a run: steps, batches, learning rate. Pure.

use finetune_crds::FineTuneJobSpec;
use finetune_crds::fine_tune_job::{PlanStatus, Schedule};
use finetune_dataset::{Batches, pack};

/// Rows a forward pass where the manifest does not say.
const DEFAULT_MICRO_BATCH_SIZE: i64 = 8;

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
    /// Rows a forward pass.
    pub micro_batch_size: usize,
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
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

impl Plan {
    /// The plan for training rows of these lengths (of preferences two make a pair, which is what a step counts) and, where
    /// `has_validation`, some validation rows.
    pub fn new(spec: &FineTuneJobSpec, lengths: &[usize], has_validation: bool) -> Self {
        let training = &spec.training;
        let batch_size = training.batch_size.max(1);
        let is_preference = spec.preference().is_some();
        let micro_batch_size = training.micro_batch_size.unwrap_or(match is_preference {
            // One answer a pass.
            true => 1,
            false => batch_size.min(DEFAULT_MICRO_BATCH_SIZE),
        });
        let batches_of = |rows| {
            let seed = training.seed as u64;
            Batches::new(rows, batch_size as usize, seed, training.shuffle)
        };
        let packing = match is_preference || training.neftune_noise_alpha.is_some() {
            true => Some(false),
            false => spec.dataset.packing,
        };
        let packs = (packing != Some(false))
            .then(|| pack(lengths, spec.dataset.max_sequence_length as usize))
            .filter(|packs| {
                packing == Some(true) || batches_of(packs.len()).steps_per_epoch() >= PACKED_STEPS
            });
        let batches = batches_of(match (&packs, is_preference) {
            (Some(packs), _) => packs.len(),
            (None, true) => lengths.len() / 2,
            (None, false) => lengths.len(),
        });
        let total_steps = batches.total_steps(
            training.epochs.map(|epochs| epochs as u64),
            training.max_steps.map(|steps| steps as u64),
        );
        let once_an_epoch = batches.steps_per_epoch();
        let default_learning_rate = if spec.method.full.is_some() {
            2e-5
        } else {
            2e-4
        };
        let every_steps = spec
            .dataset
            .validation
            .as_ref()
            .and_then(|validation| validation.every_steps);
        Self {
            method: spec.method.name(),
            batches,
            packs,
            batch_size: batch_size as usize,
            micro_batch_size: micro_batch_size as usize,
            total_steps,
            // transformers rounds up too, but may leave no step after the warm-up: of a single step that would be the one with
            // rate 0.
            warmup_steps: ((total_steps as f64 * training.warmup_fraction).ceil() as u64)
                .min(total_steps.saturating_sub(1)),
            learning_rate: training.learning_rate.unwrap_or(default_learning_rate),
            schedule: training.schedule,
            validation_every: has_validation
                .then(|| every_steps.map_or(once_an_epoch, |steps| steps as u64)),
            checkpoint_every: checkpoint_every(spec.checkpoint.every_steps as u64, total_steps),
        }
    }

    /// The documents of each row of step `step`, from 0: the row itself, or those that are packed into it.
    pub fn rows_of_step(&mut self, step: u64) -> Vec<Vec<usize>> {
        let rows = self.batches.rows_of_step(step).iter();
        match &self.packs {
            Some(packs) => rows.map(|row| packs[*row].clone()).collect(),
            None => rows.map(|row| vec![*row]).collect(),
        }
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
            micro_batch_size: self.micro_batch_size as i64,
            gradient_accumulation: self.batch_size.div_ceil(self.micro_batch_size) as i64,
            trainable_parameters,
            total_steps: self.total_steps as i64,
            packed_rows: self.packs.as_ref().map(|packs| packs.len() as i64),
            checkpoint_every_steps: Some(self.checkpoint_every as i64),
            compute_type: None,
        }
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

#[cfg(test)]
mod tests {
    use finetune_crds::fine_tune_job::{Full, Method, Validation};

    use super::*;

    fn spec() -> FineTuneJobSpec {
        serde_json::from_value(serde_json::json!({
            "baseModel": { "uri": "file:///base/" },
            "dataset": { "train": [] },
            "method": { "lora": {} },
        }))
        .unwrap()
    }

    #[test]
    fn the_last_batch_of_an_epoch_is_kept() {
        let plan = Plan::new(&spec(), &[1; 33], false);
        assert_eq!((plan.batches.steps_per_epoch(), plan.total_steps), (3, 9));
        assert_eq!(plan.status(None).gradient_accumulation, 2);
    }

    #[test]
    fn warm_up_is_rounded_up() {
        let mut spec = spec();
        spec.training.max_steps = Some(34);
        assert_eq!(Plan::new(&spec, &[1], false).warmup_steps, 2);
    }

    #[test]
    fn a_step_is_left_after_the_warm_up() {
        let mut spec = spec();
        for (steps, fraction, expected) in [(1, 0.03, 0), (1, 1.0, 0), (2, 1.0, 1), (34, 0.03, 2)] {
            spec.training.max_steps = Some(steps);
            spec.training.warmup_fraction = fraction;
            assert_eq!(Plan::new(&spec, &[1], false).warmup_steps, expected);
        }
    }

    #[test]
    fn a_run_that_would_save_nothing_before_its_end_saves_at_each_quarter() {
        let every = |steps| checkpoint_every(100, steps);
        assert_eq!([1, 2, 6, 100].map(every), [1, 1, 2, 25]);
        assert_eq!([101, 250, 10_000].map(every), [100, 100, 100]);
        let mut spec = spec();
        spec.training.max_steps = Some(6);
        let plan = Plan::new(&spec, &[1], false);
        assert_eq!(plan.status(None).checkpoint_every_steps, Some(2));
    }

    #[test]
    fn full_has_a_smaller_learning_rate() {
        let mut spec = spec();
        assert_eq!(
            Plan::new(&spec, &[1], false).status(None).learning_rate,
            "2e-4"
        );
        spec.method = Method {
            full: Some(Full {}),
            ..Method::default()
        };
        assert_eq!(
            Plan::new(&spec, &[1], false).status(None).learning_rate,
            "2e-5"
        );
    }

    #[test]
    fn validation_comes_once_an_epoch_and_after_the_last_step() {
        let mut spec = spec();
        spec.training.max_steps = Some(7);
        spec.dataset.validation = Some(Validation::default());
        let plan = Plan::new(&spec, &[1; 40], true);
        let due: Vec<u64> = (1..=7).filter(|step| plan.validates_after(*step)).collect();
        assert_eq!(due, [3, 6, 7]);
        assert!(!Plan::new(&spec, &[1; 40], false).validates_after(7));
    }

    #[test]
    fn packed_rows_are_the_rows_of_a_batch() {
        let mut spec = spec();
        spec.training.shuffle = false;
        spec.dataset.packing = Some(true);
        spec.dataset.max_sequence_length = 4;
        let mut plan = Plan::new(&spec, &[3, 1, 2, 2, 4], false);
        assert_eq!(plan.status(None).packed_rows, Some(3));
        assert_eq!(plan.total_steps, 3);
        assert_eq!(plan.rows_of_step(0), [vec![0, 1], vec![2, 3], vec![4]]);
        spec.dataset.packing = Some(false);
        let mut plan = Plan::new(&spec, &[3, 1, 2, 2, 4], false);
        assert_eq!(plan.status(None).packed_rows, None);
        assert_eq!(plan.rows_of_step(0), [[0], [1], [2], [3], [4]]);
    }

    #[test]
    fn without_a_word_rows_are_packed_where_enough_steps_remain() {
        let mut spec = spec();
        spec.training.batch_size = 2;
        spec.dataset.max_sequence_length = 4;
        let few = Plan::new(&spec, &[2; 396], false);
        assert_eq!((few.packs, few.batches.steps_per_epoch()), (None, 198));
        let many = Plan::new(&spec, &[2; 400], false);
        assert_eq!(many.packs.map(|packs| packs.len()), Some(200));
        assert_eq!(many.batches.steps_per_epoch(), 100);
    }
}
