//! One run, from the manifest to the published result: look for an outcome, claim, prepare, load, resume, loop, export,
//! publish, say how it ended.
//!
//! A process may die after any line of this file: what it has done by then is found by the next one, and done once.

pub(crate) mod inputs;
pub(crate) mod metrics_log;
pub mod plan;
pub mod preference;
pub mod stop;
pub mod trainee;

use std::time::{Duration, Instant};

use finetune_crds::contract::{Outcome, OutcomeReason, RunPhase, Stage, layout};

use crate::attempt::Attempt;
use crate::checkpoint::{self, Identity};
use crate::failure::Failure;
use crate::manifest_file::Job;
use crate::optimizer::{AdamW, clip_gradient_norm, learning_rate};
use crate::progress::{Reporter, Step};
use crate::workplace::Workplace;
use crate::{export, outcome};

use inputs::Inputs;
use metrics_log::{MetricsLog, Row};
use plan::Plan;
use stop::Stop;
use trainee::Trainee;

/// What a run needs from outside.
#[derive(Clone, Copy)]
pub struct Run<'run> {
    /// What to do.
    pub job: &'run Job,
    /// Where.
    pub place: &'run Workplace,
    /// Who is told of it.
    pub reporter: &'run Reporter,
    /// Who may end it early.
    pub stop: &'run Stop,
    /// Who claims the attempt: a pod or host, and a process.
    pub holder: &'run str,
    /// The clock, for what people read; nothing is decided by it.
    pub now: fn() -> jiff::Timestamp,
}

/// Trains and publishes, or finds that this was done.
pub async fn train(run: &Run<'_>) -> Result<Outcome, Failure> {
    let Run {
        job,
        place,
        reporter,
        ..
    } = *run;
    if let Some(outcome) = outcome::find(&place.job_folder, job).await? {
        tracing::info!(
            "the job is done: {} has its outcome",
            place.job_folder.uri_of(layout::OUTCOME)
        );
        remove_passing(place).await;
        return Ok(outcome);
    }
    if job.spec.dry_run {
        return Err(Failure::invalid(
            "spec.dryRun is true, so there is nothing to train: `trainer prepare` checks and plans; remove dryRun to train",
        ));
    }
    let attempt = Attempt::claim(&place.passing, run.holder.to_owned(), (run.now)()).await?;
    reporter.attempt(attempt.number);
    tracing::info!("attempt {}", attempt.number);

    let inputs = Inputs::of(job, place).await?;
    let plan = Plan::new(
        &job.spec,
        inputs.data.train.len(),
        !inputs.data.validation.is_empty(),
    );
    let mut trainee =
        Trainee::load(job, &inputs).map_err(|failure| advised(failure, job, &plan))?;
    let identity = Identity {
        spec_digest: job.spec_digest.clone(),
        dataset_digest: inputs.data.report.tokens_digest.clone(),
        base_digest: inputs.base_digest.clone(),
        parameters: trainee.parameters()?.count(),
    };
    let plan_status = plan.status(Some(identity.parameters as i64));
    let plan_json = serde_json::to_vec_pretty(&plan_status).map_err(Failure::internal)?;
    place
        .job_folder
        .write(layout::PLAN, plan_json.into())
        .await?;

    let metrics = run_steps(run, &attempt, &plan, &identity, &inputs, &mut trainee)
        .await
        .map_err(|failure| advised(failure, job, &plan))?;

    reporter.phase(RunPhase::Evaluating);
    let folder = place.temporary()?;
    export::write(folder.path(), job, &inputs, &plan, trainee)?;

    reporter.phase(RunPhase::Publishing);
    let staged =
        finetune_artifacts::publish::stage(&place.versions(job)?, "", folder.path()).await?;
    attempt.ensure_newest().await?;
    let published = staged.commit().await?;
    tracing::info!("published {}", published.uri);
    let files = &place.job_folder;
    files
        .write(layout::METRICS_CSV, metrics.to_csv().into())
        .await?;
    files
        .write(layout::METRICS_JSONL, metrics.to_jsonl().into())
        .await?;
    files
        .write(layout::DATASET_REPORT, inputs.data.report.to_json().into())
        .await?;

    let (adapter, model) = if job.lora().is_some() {
        (Some(published), None)
    } else {
        (None, Some(published))
    };
    let outcome = Outcome {
        adapter,
        model,
        dataset: Some(inputs.data.report.dataset.clone()),
        base_model: Some(inputs.base.status(Some(inputs.base_digest.clone()))),
        plan: Some(plan_status),
        progress: Some(reporter.progress()),
        ..outcome::succeeded(job, Stage::Train, attempt.number)
    };
    let outcome = outcome::create(files, job, outcome).await?;
    remove_passing(place).await;
    Ok(outcome)
}

/// Removes what only a running job needs. What stays behind costs room, not correctness.
async fn remove_passing(place: &Workplace) {
    if let Err(error) = place.passing.delete_below("").await {
        tracing::warn!("failed to remove {}: {error}", place.passing.uri());
    }
}

/// The loop: from the newest checkpoint to the last step. Returns the metrics of all steps.
async fn run_steps(
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
    let mut batches = plan.batches.clone();
    let mut optimizer = AdamW::new(identity.parameters, training.weight_decay);
    let mut metrics = MetricsLog::default();

    if let Some(checkpoint) = checkpoint::newest(place, identity).await? {
        checkpoint.restore(trainee.parameters_mut()?, &mut optimizer)?;
        metrics = checkpoint.metrics;
        reporter.restore(
            metrics.last().map(|row| row.loss),
            metrics.validation_loss(),
        );
        tracing::info!("resumed after step {}", optimizer.steps);
    }
    let mut saver = Saver::new(run, attempt, identity, optimizer.steps);
    reporter.start(
        optimizer.steps,
        plan.total_steps,
        metrics.tokens(),
        batches.epochs_after(optimizer.steps),
    );
    reporter.phase(RunPhase::Training);

    while optimizer.steps < plan.total_steps {
        if stop.is_told() {
            saver.save(trainee, &optimizer, &metrics).await?;
            let step = optimizer.steps;
            return Err(Failure::new(
                OutcomeReason::Preempted,
                format!("told to stop after step {step}; run it again to go on from there"),
            ));
        }
        let started = Instant::now();
        let rate = learning_rate(
            plan.schedule,
            plan.learning_rate,
            optimizer.steps,
            plan.warmup_steps,
            plan.total_steps,
        );
        let rows = batches.rows_of_step(optimizer.steps);
        trainee.parameters_mut()?.zero_gradients()?;
        let loss = trainee.accumulate_gradient(
            &inputs.data.train,
            rows,
            plan.micro_batch_size,
            optimizer.steps,
        )?; // mean over the step's unmasked tokens
        let gradient_norm =
            clip_gradient_norm(trainee.parameters_mut()?, training.max_gradient_norm)?;
        if !(loss.mean().is_finite() && gradient_norm.is_finite()) {
            return Err(diverged(
                optimizer.steps + 1,
                loss.mean(),
                gradient_norm,
                rate,
            ));
        }
        optimizer.step(trainee.parameters_mut()?, rate)?;

        let step = optimizer.steps;
        let epoch = batches.epochs_after(step);
        reporter.step(&Step {
            step,
            epoch,
            loss: loss.mean(),
            learning_rate: rate,
            gradient_norm,
            tokens: loss.tokens,
            duration: started.elapsed(),
        });
        let validation_loss = if plan.validates_after(step) {
            let loss = trainee
                .loss(&inputs.data.validation, plan.micro_batch_size)?
                .mean();
            reporter.validation(step, loss);
            Some(loss)
        } else {
            None
        };
        metrics
            .push(Row {
                step,
                epoch,
                loss: loss.mean(),
                learning_rate: rate,
                gradient_norm,
                tokens: loss.tokens,
                validation_loss,
            })
            .map_err(Failure::internal)?;
        if step == plan.total_steps || saver.is_due(step) {
            saver.save(trainee, &optimizer, &metrics).await?;
        }
    }
    Ok(metrics)
}

/// Decides when a checkpoint is due, and makes it.
struct Saver<'run> {
    run: &'run Run<'run>,
    attempt: &'run Attempt,
    identity: &'run Identity,
    saved_step: u64,
    saved_at: Instant,
}

impl<'run> Saver<'run> {
    fn new(
        run: &'run Run<'run>,
        attempt: &'run Attempt,
        identity: &'run Identity,
        step: u64,
    ) -> Self {
        Self {
            run,
            attempt,
            identity,
            saved_step: step,
            saved_at: Instant::now(),
        }
    }

    fn is_due(&self, step: u64) -> bool {
        let checkpoint = &self.run.job.spec.checkpoint;
        step.is_multiple_of(checkpoint.every_steps as u64)
            || self.saved_at.elapsed() >= Duration::from_secs(checkpoint.every_seconds as u64)
    }

    /// Saves the state, unless that of this step is saved already.
    async fn save(
        &mut self,
        trainee: &Trainee,
        optimizer: &AdamW,
        metrics: &MetricsLog,
    ) -> Result<(), Failure> {
        let Run {
            job,
            place,
            reporter,
            now,
            ..
        } = *self.run;
        if optimizer.steps == self.saved_step {
            return Ok(());
        }
        let keep = job.spec.checkpoint.keep as usize;
        checkpoint::write(
            place,
            self.attempt,
            self.identity,
            trainee.parameters()?,
            optimizer,
            metrics,
            keep,
        )
        .await?;
        place
            .job_folder
            .write(layout::METRICS_JSONL, metrics.to_jsonl().into())
            .await?;
        reporter.checkpoint(optimizer.steps, now());
        self.saved_step = optimizer.steps;
        self.saved_at = Instant::now();
        Ok(())
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

/// A failure for want of memory, with what to change in this manifest.
fn advised(failure: Failure, job: &Job, plan: &Plan) -> Failure {
    if failure.reason != OutcomeReason::OutOfMemory {
        return failure;
    }
    let mut advice = Vec::new();
    if plan.micro_batch_size > 1 {
        advice.push(format!(
            "lower training.microBatchSize (now {})",
            plan.micro_batch_size
        ));
    }
    advice.push(format!(
        "lower dataset.maxSequenceLength (now {})",
        job.spec.dataset.max_sequence_length
    ));
    match plan.method {
        "full" => advice.push("use method lora or qlora".to_owned()),
        "lora" => advice.push("use method qlora".to_owned()),
        _ => {}
    }
    advice.push("raise placement.resources.limits.memory".to_owned());
    Failure::new(
        OutcomeReason::OutOfMemory,
        format!("{}; {}", failure.message, advice.join(", or ")),
    )
}
