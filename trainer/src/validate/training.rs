//! The rules of `spec.training`.

use finetune_crds::FineTuneJobSpec;
use finetune_crds::fine_tune_job::Training;

use super::Fault;

pub(super) fn check_training(training: &Training, faults: &mut Vec<Fault>) {
    if training.epochs.is_some() && training.max_steps.is_some() {
        faults.push(Fault::new(
            "spec.training",
            "has both epochs and maxSteps, expected at most one: remove one of them",
        ));
    }
    let batch_size = training.batch_size.max(1);
    if let Some(micro_batch_size) = training.micro_batch_size
        && !(1..=batch_size).contains(&micro_batch_size)
    {
        faults.push(Fault::new(
            "spec.training.microBatchSize",
            format!("is {micro_batch_size}, expected 1 to {batch_size}"),
        ));
    }
}

pub(super) fn check_packing(spec: &FineTuneJobSpec, faults: &mut Vec<Fault>) {
    if spec.dataset.packing != Some(true) {
        return;
    }
    let field = "spec.dataset.packing";
    if let Some(name) = spec.objective_of_pairs() {
        faults.push(Fault::new(
            field,
            format!("is true with objective {name}, whose rows are pairs of answers: remove it"),
        ));
    }
    if spec.training.neftune_noise_alpha.is_some() {
        faults.push(Fault::new(
            field,
            "is true with training.neftuneNoiseAlpha, whose noise depends on the length of a row: remove one of them",
        ));
    }
}

pub(super) fn check_early_stopping(spec: &FineTuneJobSpec, faults: &mut Vec<Fault>) {
    if spec.training.early_stopping.is_some() && spec.dataset.validation.is_none() {
        faults.push(Fault::new(
            "spec.training.earlyStopping",
            "needs a validation loss: set dataset.validation or remove it",
        ));
    }
}
