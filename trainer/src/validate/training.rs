//! The rules of `spec.training`, and of `spec.checkpoint` beside it.

use finetune_crds::FineTuneJobSpec;
use finetune_crds::fine_tune_job::{Checkpoint, Dataset, EarlyStopping, Training};

use super::{Fault, check_range};

pub(super) fn check_training(training: &Training, faults: &mut Vec<Fault>) {
    let field = |name: &str| format!("spec.training.{name}");
    if training.epochs.is_some() && training.max_steps.is_some() {
        faults.push(Fault::new(
            "spec.training",
            "has both epochs and maxSteps, expected at most one: remove one of them",
        ));
    }
    if let Some(epochs) = training.epochs {
        check_range(&field("epochs"), epochs, 1..=10_000, faults);
    }
    if let Some(max_steps) = training.max_steps {
        check_range(&field("maxSteps"), max_steps, 1..=1_000_000_000, faults);
    }
    check_range(&field("batchSize"), training.batch_size, 1..=65536, faults);
    if let Some(micro_batch_size) = training.micro_batch_size {
        check_range(
            &field("microBatchSize"),
            micro_batch_size,
            1..=training.batch_size.max(1),
            faults,
        );
    }
    if let Some(learning_rate) = training.learning_rate {
        check_range(&field("learningRate"), learning_rate, 1e-10..=10.0, faults);
    }
    if let Some(alpha) = training.neftune_noise_alpha {
        check_range(&field("neftuneNoiseAlpha"), alpha, 1e-10..=1000.0, faults);
    }
    check_range(
        &field("warmupFraction"),
        training.warmup_fraction,
        0.0..=1.0,
        faults,
    );
    check_range(
        &field("weightDecay"),
        training.weight_decay,
        0.0..=1.0,
        faults,
    );
    check_range(
        &field("maxGradientNorm"),
        training.max_gradient_norm,
        0.0..=1_000_000.0,
        faults,
    );
    check_range(&field("seed"), training.seed, 0..=4_294_967_295, faults);
}

pub(super) fn check_packing(spec: &FineTuneJobSpec, faults: &mut Vec<Fault>) {
    if spec.dataset.packing != Some(true) {
        return;
    }
    let field = "spec.dataset.packing";
    if spec.preference().is_some() {
        faults.push(Fault::new(
            field,
            "is true with objective dpo, whose rows are pairs of answers: remove it",
        ));
    }
    if spec.training.neftune_noise_alpha.is_some() {
        faults.push(Fault::new(
            field,
            "is true with training.neftuneNoiseAlpha, whose noise depends on the length of a row: remove one of them",
        ));
    }
}

pub(super) fn check_early_stopping(
    early_stopping: &EarlyStopping,
    dataset: &Dataset,
    faults: &mut Vec<Fault>,
) {
    let field = "spec.training.earlyStopping";
    if dataset.validation.is_none() {
        faults.push(Fault::new(
            field,
            "needs a validation loss: set dataset.validation or remove it",
        ));
    }
    check_range(
        &format!("{field}.patience"),
        early_stopping.patience,
        1..=10_000,
        faults,
    );
    check_range(
        &format!("{field}.minImprovement"),
        early_stopping.min_improvement,
        0.0..=1000.0,
        faults,
    );
}

pub(super) fn check_checkpoint(checkpoint: &Checkpoint, faults: &mut Vec<Fault>) {
    check_range(
        "spec.checkpoint.everySteps",
        checkpoint.every_steps,
        1..=1_000_000_000,
        faults,
    );
    check_range(
        "spec.checkpoint.everySeconds",
        checkpoint.every_seconds,
        1..=604_800,
        faults,
    );
    check_range("spec.checkpoint.keep", checkpoint.keep, 1..=100, faults);
}
