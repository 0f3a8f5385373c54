//! The loop: from the newest checkpoint to the last step, or to where the validation loss no longer falls.
//!
//! A step is complete once the parameters are updated; its row is once the validation that is due after it is done. Between
//! any two passes over the model the loop can be told to stop: what was begun is dropped, and what is complete is saved.

use std::time::Instant;

use finetune_crds::contract::{ExitCode, OutcomeReason, RunPhase};
use finetune_dataset::Batches;
use finetune_numerics::optimizer::{Optimizer, clip_gradient_norm, learning_rate};

use crate::attempt::Attempt;
use crate::checkpoint::{self, Best, Conduct, Identity};
use crate::failure::Failure;
use crate::objective::StepRows;
use crate::progress::Step;

use super::early_stopping::EarlyStopping;
use super::saver::{Saver, Snapshot};
use super::spikes::Spikes;
use crate::metrics_log::{MetricsLog, Row};
use crate::run::Run;
use crate::run::inputs::Inputs;
use crate::run::plan::{DEALING, Plan};
use crate::run::trainee::Trainee;

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
    let Run {
        job,
        place,
        reporter,
        stop,
        ..
    } = *run;
    let training = &job.spec.training;
    let mut optimizer = Optimizer::new(plan.optimizer, trainee.parameters(), training.weight_decay);
    let mut metrics = MetricsLog::default();
    let mut best: Option<Best> = None;
    let mut unvalidated: Option<Row> = None;

    if let Some(checkpoint) = checkpoint::newest(place, identity).await? {
        checkpoint.restore(trainee.parameters_mut(), &mut optimizer)?;
        (metrics, best) = (checkpoint.metrics, checkpoint.best);
        unvalidated = checkpoint.unvalidated;
        let rows = || metrics.rows().iter().chain(&unvalidated);
        reporter.restore(
            rows().next_back().map(|row| row.loss),
            metrics.validation_loss(),
            rows().filter(|row| row.spike).count() as u64,
        );
        tracing::info!("resumed after step {}", optimizer.steps());
    }
    let settings = training.early_stopping.as_ref();
    let mut early_stopping = settings.map(|settings| EarlyStopping::new(settings, metrics.rows()));
    let mut spikes = Spikes::new(metrics.rows());
    if let Some(row) = &unvalidated {
        spikes.check(row.loss);
    }
    let conduct = Conduct {
        compute_type: crate::device::compute_type(trainee.trained.model().base.compute()),
        dealing: DEALING,
    };
    let mut saver = Saver::new(
        run,
        attempt,
        identity,
        conduct,
        plan.checkpoints,
        optimizer.steps(),
    );
    reporter.start(
        optimizer.steps(),
        plan.total_steps,
        metrics.tokens() + unvalidated.as_ref().map_or(0, |row| row.tokens),
        plan.batches.epochs_after(optimizer.steps()),
    );
    if let Some((step, loss)) = early_stopping.as_ref().and_then(EarlyStopping::best) {
        reporter.best(step, loss);
    }
    reporter.phase(RunPhase::Training);
    // The order of an epoch's rows is kept from step to step.
    let mut batches = plan.batches.clone();

    let is_exhausted = |early_stopping: &Option<EarlyStopping>| {
        early_stopping
            .as_ref()
            .is_some_and(EarlyStopping::is_exhausted)
    };
    loop {
        let mut row = match unvalidated.take() {
            Some(row) => row,
            None if optimizer.steps() == plan.total_steps || is_exhausted(&early_stopping) => break,
            None => match make_step(
                run,
                plan,
                &mut batches,
                inputs,
                trainee,
                &mut optimizer,
                &mut spikes,
            )? {
                Some(row) => row,
                None => {
                    let snapshot = Snapshot {
                        trainee,
                        optimizer: &optimizer,
                        metrics: &metrics,
                        best: best.as_ref(),
                        unvalidated: None,
                    };
                    return Err(stopped(&mut saver, snapshot).await);
                }
            },
        };
        let step = row.step;
        if plan.validates_after(step) {
            let rows = &inputs.data.validation;
            let goes_on = || !stop.is_told();
            let validation = trainee.loss(rows, plan.micro_batch_size, &goes_on)?;
            let Some(validation) = validation else {
                let snapshot = Snapshot {
                    trainee,
                    optimizer: &optimizer,
                    metrics: &metrics,
                    best: best.as_ref(),
                    unvalidated: Some(&row),
                };
                return Err(stopped(&mut saver, snapshot).await);
            };
            reporter.validation(step, validation.mean());
            if let Some(early_stopping) = &mut early_stopping
                && early_stopping.validated(step, validation.mean())
            {
                reporter.best(step, validation.mean());
                let values = trainee.parameters().values()?.to_vec();
                best = Some(Best { step, values });
            }
            row.validation_loss = Some(validation.mean());
            row.validation_accuracy = Some(validation.accuracy());
        }
        metrics.push(row, (run.now)()).map_err(Failure::internal)?;
        let is_last = step == plan.total_steps || is_exhausted(&early_stopping);
        let snapshot = Snapshot {
            trainee,
            optimizer: &optimizer,
            metrics: &metrics,
            best: best.as_ref(),
            unvalidated: None,
        };
        saver.save_if_due(snapshot, is_last).await?;
    }
    if optimizer.steps() < plan.total_steps {
        reporter.stopped_early(optimizer.steps());
        tracing::info!(
            "stopped after step {} of {}: the validation loss no longer falls",
            optimizer.steps(),
            plan.total_steps
        );
    }
    if let Some(best) = best.filter(|best| best.step != optimizer.steps()) {
        tracing::info!(
            "the weights of step {} are published, which had the lowest validation loss",
            best.step
        );
        trainee
            .parameters_mut()
            .values_mut()?
            .copy_from_slice(&best.values);
    }
    Ok(metrics)
}

/// One optimiser step: gradient, clipping, update. `None`, and nothing is changed, where the process was told to stop before
/// the gradient was complete. The row is without a validation.
fn make_step(
    run: &Run<'_>,
    plan: &Plan,
    batches: &mut Batches,
    inputs: &Inputs,
    trainee: &mut Trainee,
    optimizer: &mut Optimizer,
    spikes: &mut Spikes,
) -> Result<Option<Row>, Failure> {
    let started = Instant::now();
    run.reporter.step_begins((run.now)());
    let rate = learning_rate(
        plan.schedule,
        plan.learning_rate,
        optimizer.steps(),
        plan.warmup_steps,
        plan.total_steps,
    );
    let rows = plan.documents(batches.rows_of_step(optimizer.steps()));
    trainee.parameters_mut().zero_gradients()?;
    let of_step = StepRows {
        data: &inputs.data.train,
        rows: &rows,
        micro_batch_size: plan.micro_batch_size,
        step: optimizer.steps(),
    };
    let loss = trainee.accumulate_gradient(of_step, &|| !run.stop.is_told())?; // mean over the step's unmasked tokens
    let Some(loss) = loss else {
        return Ok(None);
    };
    let most = run.job.spec.training.max_gradient_norm;
    let gradient_norm = clip_gradient_norm(trainee.parameters_mut(), most)?;
    if !(loss.mean().is_finite() && gradient_norm.is_finite()) {
        return Err(diverged(
            optimizer.steps() + 1,
            loss.mean(),
            gradient_norm,
            rate,
        ));
    }
    optimizer.step(trainee.parameters_mut(), rate)?;

    let step = optimizer.steps();
    let epoch = plan.batches.epochs_after(step);
    let usual = spikes.check(loss.mean());
    if let Some(usual) = usual {
        run.reporter.spike(step, loss.mean(), usual);
    }
    run.reporter.step(&Step {
        step,
        epoch,
        loss: loss.mean(),
        learning_rate: rate,
        gradient_norm,
        tokens: loss.tokens,
        duration: started.elapsed(),
    });
    Ok(Some(Row {
        step,
        epoch,
        loss: loss.mean(),
        accuracy: loss.accuracy(),
        learning_rate: rate,
        gradient_norm,
        tokens: loss.tokens,
        spike: usual.is_some(),
        validation_loss: None,
        validation_accuracy: None,
    }))
}

/// Saves what is complete, and says that the run was stopped.
async fn stopped(saver: &mut Saver<'_>, snapshot: Snapshot<'_>) -> Failure {
    let step = snapshot.optimizer.steps();
    match saver.save(snapshot).await {
        Ok(()) => Failure::new(
            OutcomeReason::Preempted,
            format!("told to stop after step {step}; run it again to go on from there"),
        ),
        Err(failure) => Failure::new(
            // Another try may save what this one could not.
            match ExitCode::FINAL.contains(&failure.exit_code()) {
                true => OutcomeReason::Unavailable,
                false => failure.reason,
            },
            format!(
                "told to stop after step {step}, whose state could not be saved: {failure}; run it again to go on from step {}",
                saver.saved_step()
            ),
        ),
    }
}

fn diverged(step: u64, loss: f64, gradient_norm: f64, rate: f64) -> Failure {
    Failure::new(
        OutcomeReason::Diverged,
        format!(
            "step {step}: the loss is {loss} and the gradient's norm {gradient_norm}, expected numbers; lower training.learningRate (it was {rate:e} here) or raise training.warmupFraction"
        ),
    )
}
