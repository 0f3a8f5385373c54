//! The loop: from the newest checkpoint to the last step, or to where the validation loss no longer falls.
//!
//! A step is complete once the parameters are updated; its report is once the validation that is due after it is done. Between
//! any two passes over the model the loop can be told to stop: what was begun is dropped, and what is complete is saved.

use std::time::Instant;

use finetune_crds::contract::RunPhase;

use crate::attempt::Attempt;
use crate::checkpoint::{Conduct, Identity};
use crate::device;
use crate::failure::Failure;
use crate::metrics_log::{MetricsLog, StepReport};
use crate::objective::StepRows;
use crate::progress::Reporter;
use crate::run::Run;
use crate::run::inputs::Inputs;
use crate::run::plan::{DEALING, Plan};
use crate::run::trainee::Trainee;

use super::early_stopping::EarlyStopping;
use super::failures::diverged;
use super::saver::Saver;
use super::state::State;

/// Makes all steps that are still to be made. Leaves the weights to be published in `trainee`, and returns the metrics of
/// all steps.
pub(super) async fn run_steps(
    run: &Run<'_>,
    attempt: &Attempt,
    plan: &Plan,
    identity: &Identity,
    inputs: &Inputs,
    trainee: &mut Trainee,
) -> Result<MetricsLog, Failure> {
    let conduct = Conduct {
        compute_type: device::compute_type(trainee.trained.model().base.compute()),
        dealing: DEALING,
    };
    let mut state = State::resume(run, plan, identity, trainee).await?;
    let mut saver = Saver::new(
        run,
        attempt,
        identity,
        conduct,
        plan.checkpoints,
        state.steps(),
    );
    // Holds the order of the epoch's rows.
    let mut batches = plan.batches.clone();
    tell_start(run.reporter, plan, &state);

    while state.unvalidated.is_some() || !state.is_done(plan) {
        // A step, unless a checkpoint has left one whose validation is still to be done.
        let mut report = match state.unvalidated.take() {
            Some(report) => report,
            None => {
                let rows = plan.documents(batches.rows_of_step(state.steps()));
                match take_step(run, plan, inputs, &rows, &mut state)? {
                    Some(report) => report,
                    None => return Err(saver.stop(&state).await),
                }
            }
        };

        // Once in a while: the loss of the rows that are held back.
        if plan.validates_after(report.step)
            && !validate(run, plan, inputs, &mut state, &mut report)?
        {
            state.unvalidated = Some(report);
            return Err(saver.stop(&state).await);
        }

        // The step is complete with all that is known of it.
        let now = (run.now)();
        state.metrics.push(report, now).map_err(Failure::internal)?;

        // Once in a while, and after the last step: a checkpoint.
        saver.save_if_due(&state, state.is_done(plan)).await?;
    }

    let steps = state.steps();
    if steps < plan.total_steps {
        run.reporter.stopped_early(steps);
        tracing::info!(
            "stopped after step {steps} of {}: the validation loss no longer falls",
            plan.total_steps
        );
    }
    state.return_to_best()?;
    Ok(state.metrics)
}

/// One optimiser step: gradient, clipping, update. `None`, and nothing is changed, where the process was told to stop before
/// the gradient was complete. The report is without a validation.
fn take_step(
    run: &Run<'_>,
    plan: &Plan,
    inputs: &Inputs,
    rows: &[Vec<usize>],
    state: &mut State<'_>,
) -> Result<Option<StepReport>, Failure> {
    let started = Instant::now();
    run.reporter.step_begins((run.now)());
    let State {
        trainee,
        optimizer,
        spikes,
        ..
    } = state;
    let step = optimizer.steps(); // from 0
    let learning_rate = plan.learning_rate_of_step(step);

    // Forward to the loss and backward to the gradients, a micro-batch (B, T) at a time.
    let step_rows = StepRows {
        data: &inputs.data.train,
        rows,
        micro_batch_size: plan.micro_batch_size,
        step,
    };
    let Some(loss) = trainee.accumulate_gradient(step_rows, &|| !run.stop.is_told())? else {
        // What there is of the gradient is that of a part of the rows.
        trainee.parameters_mut().zero_gradients()?;
        return Ok(None);
    };
    let mean = loss.mean(); // over the step's unmasked tokens, or its pairs

    // Clip, update and zero the gradients, which is not done where they are no numbers.
    let max_norm = plan.max_gradient_norm;
    let gradient_norm = optimizer.step(trainee.parameters_mut(), learning_rate, max_norm)?;
    if !(mean.is_finite() && gradient_norm.is_finite()) {
        return Err(diverged(step + 1, mean, gradient_norm, learning_rate));
    }

    let step = optimizer.steps(); // from 1
    let usual = spikes.check(mean);
    if let Some(usual) = usual {
        run.reporter.spike(step, mean, usual);
    }
    let report = StepReport {
        step,
        epoch: plan.batches.epochs_after(step),
        loss: mean,
        accuracy: loss.accuracy(),
        learning_rate,
        gradient_norm,
        tokens: loss.tokens,
        spike: usual.is_some(),
        validation_loss: None,
        validation_accuracy: None,
    };
    run.reporter.step(&report, started.elapsed());
    Ok(Some(report))
}

/// Computes the validation loss after the last step into its `report`, and keeps the weights where they are the best so far.
/// Returns whether it is complete: not where the process was told to stop.
fn validate(
    run: &Run<'_>,
    plan: &Plan,
    inputs: &Inputs,
    state: &mut State<'_>,
    report: &mut StepReport,
) -> Result<bool, Failure> {
    let rows = &inputs.data.validation;
    let goes_on = || !run.stop.is_told();
    let Some(loss) = state.trainee.loss(rows, plan.micro_batch_size, &goes_on)? else {
        return Ok(false);
    };
    run.reporter.validation(report.step, loss.mean());
    if state.keep_if_best(loss.mean())? {
        run.reporter.best(report.step, loss.mean());
    }
    report.validation_loss = Some(loss.mean());
    report.validation_accuracy = Some(loss.accuracy());
    Ok(true)
}

/// Tells from where the run goes on.
fn tell_start(reporter: &Reporter, plan: &Plan, state: &State<'_>) {
    let State {
        metrics,
        unvalidated,
        early_stopping,
        ..
    } = state;
    let reports = || metrics.steps().iter().chain(unvalidated);
    reporter.restore(
        reports().next_back().map(|report| report.loss),
        metrics.validation_loss(),
        reports().filter(|report| report.spike).count() as u64,
    );
    reporter.start(
        state.steps(),
        plan.total_steps,
        reports().map(|report| report.tokens).sum(),
        plan.batches.epochs_after(state.steps()),
    );
    if let Some((step, loss)) = early_stopping.as_ref().and_then(EarlyStopping::best) {
        reporter.best(step, loss);
    }
    reporter.phase(RunPhase::Training);
}
