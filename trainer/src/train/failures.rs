//! How a run ends without a result, in words for whoever is to act.

use finetune_crds::contract::{OutcomeReason, RunPhase};
use finetune_dataset::MicroBatchSize;

use crate::failure::Failure;
use crate::job::{Job, TrainingMethod};
use crate::progress::Reporter;
use crate::run::plan::Plan;

/// Why a run ends that was told to stop while it made no steps.
pub fn told_to_stop(reporter: &Reporter) -> Failure {
    let progress = reporter.progress();
    let (when, what_next) = match progress.phase {
        RunPhase::Loading => ("before the first step", "start"),
        RunPhase::Training | RunPhase::Evaluating | RunPhase::Publishing => (
            "after the last step, before the result was published",
            "go on from there",
        ),
    };
    // The checkpoint of the last step may have failed, which is a warning only.
    let unsaved = match (progress.phase, progress.checkpoint_step) {
        (RunPhase::Loading, _) => String::new(),
        (_, Some(saved)) if saved == progress.step => String::new(),
        (_, saved) => format!(
            ", and the newest checkpoint is of step {}",
            saved.unwrap_or(0)
        ),
    };
    Failure::new(
        OutcomeReason::Preempted,
        format!("told to stop {when}{unsaved}; run it again to {what_next}"),
    )
}

/// A failure for want of memory, with what to change in this manifest.
pub(super) fn advised(failure: Failure, job: &Job, plan: &Plan) -> Failure {
    if failure.reason != OutcomeReason::OutOfMemory {
        return failure;
    }
    let mut advice = Vec::new();
    let (rows, _) = plan.most_rows_and_passes;
    if rows > 1 {
        advice.push(match plan.micro_batch_size {
            MicroBatchSize::Rows(rows) => format!("lower training.microBatchSize (now {rows})"),
            MicroBatchSize::Tokens { .. } => {
                format!("set training.microBatchSize (a pass has up to {rows} rows)")
            }
        });
    }
    advice.push(format!(
        "lower dataset.maxSequenceLength (now {})",
        job.spec.dataset.max_sequence_length
    ));
    match &job.method {
        TrainingMethod::Full => advice.push("use method lora or qlora".to_owned()),
        TrainingMethod::Lora(_) => advice.push("use method qlora".to_owned()),
        TrainingMethod::Qlora { .. } => {}
    }
    advice.push("raise placement.resources.limits.memory".to_owned());
    Failure::new(
        OutcomeReason::OutOfMemory,
        format!("{}; {}", failure.message, advice.join(", or ")),
    )
}

/// Why a run ends whose numbers are none any more after `step`.
pub(super) fn diverged(step: u64, loss: f64, gradient_norm: f64, rate: f64) -> Failure {
    Failure::new(
        OutcomeReason::Diverged,
        format!(
            "step {step}: the loss is {loss} and the gradient's norm {gradient_norm}, expected numbers; lower training.learningRate (it was {rate:e} here) or raise training.warmupFraction"
        ),
    )
}
