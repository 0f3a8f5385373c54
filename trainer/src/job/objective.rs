//! `spec.objective`: what a model learns.

use finetune_crds::FineTuneJobSpec;
use finetune_crds::fine_tune_job::Objective;

/// What is learnt, before anything is loaded. [`crate::objective::Objective`] computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TrainingObjective {
    /// To say what the rows say (supervised fine-tuning).
    Sft,
    /// Which of two answers is preferred.
    Dpo {
        /// How strongly the model is held to the reference.
        beta: f64,
    },
}

impl TrainingObjective {
    /// The one objective of a spec without faults; where it names none, `Sft`.
    pub fn of(spec: &FineTuneJobSpec) -> Self {
        // Taken apart without `..`: an objective that is not parsed here would be trained as `Sft`.
        let Some(Objective { sft: _, dpo }) = &spec.objective else {
            return Self::Sft;
        };
        match dpo {
            None => Self::Sft,
            Some(dpo) => Self::Dpo { beta: dpo.beta },
        }
    }
}
