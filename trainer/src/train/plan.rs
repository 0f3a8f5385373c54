//! What is decided before a run: steps, batches, learning rate. Pure.

use finetune_crds::FineTuneJobSpec;
use finetune_crds::fine_tune_job::{PlanStatus, Schedule};

use crate::data::Batches;

/// Rows a forward pass where the manifest does not say.
const DEFAULT_MICRO_BATCH_SIZE: i64 = 8;

/// The numbers that a run follows.
#[derive(Clone, Debug)]
pub struct Plan {
    /// full, lora or qlora.
    pub method: &'static str,
    /// Which rows each step takes.
    pub batches: Batches,
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
}

impl Plan {
    /// The plan for `rows` training rows (of preferences two make a pair, which is what a step counts) and, where `has_validation`, some validation rows.
    pub fn new(spec: &FineTuneJobSpec, rows: usize, has_validation: bool) -> Self {
        let training = &spec.training;
        let batch_size = training.batch_size.max(1);
        let is_preference = spec.preference().is_some();
        let micro_batch_size = training.micro_batch_size.unwrap_or(match is_preference {
            // One answer a pass.
            true => 1,
            false => batch_size.min(DEFAULT_MICRO_BATCH_SIZE),
        });
        let batches = Batches::new(
            if is_preference { rows / 2 } else { rows },
            batch_size as usize,
            training.seed as u64,
            training.shuffle,
        );
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
            batch_size: batch_size as usize,
            micro_batch_size: micro_batch_size as usize,
            total_steps,
            warmup_steps: (total_steps as f64 * training.warmup_fraction).ceil() as u64,
            learning_rate: training.learning_rate.unwrap_or(default_learning_rate),
            schedule: training.schedule,
            validation_every: has_validation
                .then(|| every_steps.map_or(once_an_epoch, |steps| steps as u64)),
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
        }
    }
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
        let plan = Plan::new(&spec(), 33, false);
        assert_eq!((plan.batches.steps_per_epoch(), plan.total_steps), (3, 9));
        assert_eq!(plan.status(None).gradient_accumulation, 2);
    }

    #[test]
    fn warm_up_is_rounded_up() {
        let mut spec = spec();
        spec.training.max_steps = Some(34);
        assert_eq!(Plan::new(&spec, 1, false).warmup_steps, 2);
    }

    #[test]
    fn full_has_a_smaller_learning_rate() {
        let mut spec = spec();
        assert_eq!(
            Plan::new(&spec, 1, false).status(None).learning_rate,
            "2e-4"
        );
        spec.method = Method {
            full: Some(Full {}),
            ..Method::default()
        };
        assert_eq!(
            Plan::new(&spec, 1, false).status(None).learning_rate,
            "2e-5"
        );
    }

    #[test]
    fn validation_comes_once_an_epoch_and_after_the_last_step() {
        let mut spec = spec();
        spec.training.max_steps = Some(7);
        spec.dataset.validation = Some(Validation::default());
        let plan = Plan::new(&spec, 40, true);
        let due: Vec<u64> = (1..=7).filter(|step| plan.validates_after(*step)).collect();
        assert_eq!(due, [3, 6, 7]);
        assert!(!Plan::new(&spec, 40, false).validates_after(7));
    }
}
