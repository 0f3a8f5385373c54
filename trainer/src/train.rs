//! One run, from the manifest to the published result: look for an outcome, claim, prepare, load, resume, loop, export,
//! publish, say how it ended.
//!
//! A process may die after any line of this file: what it has done by then is found by the next one, and done once.

pub mod early_stopping;
pub(crate) mod inputs;
pub(crate) mod metrics_log;
pub mod plan;
pub mod preference;
pub mod spikes;
pub mod stop;
pub mod tensorboard;
pub mod trainee;

use std::time::{Duration, Instant};

use finetune_crds::contract::{Outcome, OutcomeReason, RunPhase, Stage, layout};

use crate::attempt::Attempt;
use crate::checkpoint::{self, Best, Identity, RunState};
use crate::data::lengths;
use crate::failure::Failure;
use crate::manifest_file::Job;
use crate::optimizer::{Optimizer, clip_gradient_norm, learning_rate};
use crate::progress::{Reporter, Step};
use crate::workplace::Workplace;
use crate::{export, outcome};

use early_stopping::EarlyStopping;
use inputs::Inputs;
use metrics_log::{MetricsLog, Row};
use plan::Plan;
use spikes::Spikes;
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
    let mut plan = Plan::new(
        &job.spec,
        &lengths(&inputs.data.train),
        !inputs.data.validation.is_empty(),
    );
    let mut trainee =
        Trainee::load(job, &inputs).map_err(|failure| advised(failure, job, &plan))?;
    let identity = Identity {
        spec_digest: job.spec_digest.clone(),
        earlier_spec_digest: job.spec.earlier_digest(),
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

    let metrics = run_steps(run, &attempt, &mut plan, &identity, &inputs, &mut trainee)
        .await
        .map_err(|failure| advised(failure, job, &plan))?;

    reporter.phase(RunPhase::Evaluating);
    let folder = place.temporary()?;
    let merged_wanted = job
        .spec
        .output
        .as_ref()
        .is_some_and(|output| output.merged_model);
    let merged = merged_wanted.then(|| place.temporary()).transpose()?;
    let merged = merged.as_ref().map(tempfile::TempDir::path);
    export::write(folder.path(), merged, job, &inputs, &plan, trainee)?;

    reporter.phase(RunPhase::Publishing);
    let staged =
        finetune_artifacts::publish::stage(&place.versions(job)?, "", folder.path()).await?;
    let staged_model = match merged {
        Some(merged) => {
            Some(finetune_artifacts::publish::stage(&place.models(job)?, "", merged).await?)
        }
        None => None,
    };
    attempt.ensure_newest().await?;
    let published = staged.commit().await?;
    tracing::info!("published {}", published.uri);
    let merged_model = match staged_model {
        Some(staged) => Some(staged.commit().await?),
        None => None,
    };
    let files = &place.job_folder;
    files
        .write(layout::METRICS_CSV, metrics.to_csv().into())
        .await?;
    write_metrics(place, &metrics).await?;
    files
        .write(layout::DATASET_REPORT, inputs.data.report.to_json().into())
        .await?;

    let (adapter, model) = if job.lora().is_some() {
        (Some(published), merged_model)
    } else {
        (None, Some(published))
    };
    let outcome = Outcome {
        gguf_adapter: adapter
            .as_ref()
            .filter(|_| job.wants_gguf_adapter())
            .map(|adapter| format!("{}{}", adapter.uri, layout::ADAPTER_GGUF)),
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

/// The metrics that a running job shows too.
async fn write_metrics(place: &Workplace, metrics: &MetricsLog) -> Result<(), Failure> {
    let files = &place.job_folder;
    files
        .write(layout::METRICS_JSONL, metrics.to_jsonl().into())
        .await?;
    files
        .write(layout::TENSORBOARD, metrics.events().to_vec().into())
        .await?;
    Ok(())
}

/// The loop: from the newest checkpoint to the last step, or to where the validation loss no longer falls. Leaves the
/// weights to be published in `trainee`, and returns the metrics of all steps.
async fn run_steps(
    run: &Run<'_>,
    attempt: &Attempt,
    plan: &mut Plan,
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
    let mut optimizer = Optimizer::new(
        training.optimizer,
        trainee.parameters()?,
        training.weight_decay,
    );
    let mut metrics = MetricsLog::default();
    let mut best: Option<Best> = None;

    if let Some(checkpoint) = checkpoint::newest(place, identity).await? {
        checkpoint.restore(trainee.parameters_mut()?, &mut optimizer)?;
        (metrics, best) = (checkpoint.metrics, checkpoint.best);
        let spikes = metrics.rows().iter().filter(|row| row.spike).count();
        reporter.restore(
            metrics.last().map(|row| row.loss),
            metrics.validation_loss(),
            spikes as u64,
        );
        tracing::info!("resumed after step {}", optimizer.steps());
    }
    let settings = training.early_stopping.as_ref();
    let mut early_stopping = settings.map(|settings| EarlyStopping::new(settings, metrics.rows()));
    let mut spikes = Spikes::new(metrics.rows());
    let mut saver = Saver::new(run, attempt, identity, optimizer.steps());
    reporter.start(
        optimizer.steps(),
        plan.total_steps,
        metrics.tokens(),
        plan.batches.epochs_after(optimizer.steps()),
    );
    if let Some((step, loss)) = early_stopping.as_ref().and_then(EarlyStopping::best) {
        reporter.best(step, loss);
    }
    reporter.phase(RunPhase::Training);

    let is_exhausted = |early_stopping: &Option<EarlyStopping>| {
        early_stopping
            .as_ref()
            .is_some_and(EarlyStopping::is_exhausted)
    };
    while optimizer.steps() < plan.total_steps && !is_exhausted(&early_stopping) {
        if stop.is_told() {
            saver
                .save(trainee, &optimizer, &metrics, best.as_ref())
                .await?;
            let step = optimizer.steps();
            return Err(Failure::new(
                OutcomeReason::Preempted,
                format!("told to stop after step {step}; run it again to go on from there"),
            ));
        }
        let started = Instant::now();
        let rate = learning_rate(
            plan.schedule,
            plan.learning_rate,
            optimizer.steps(),
            plan.warmup_steps,
            plan.total_steps,
        );
        let rows = plan.rows_of_step(optimizer.steps());
        trainee.parameters_mut()?.zero_gradients()?;
        let loss = trainee.accumulate_gradient(
            &inputs.data.train,
            &rows,
            plan.micro_batch_size,
            optimizer.steps(),
        )?; // mean over the step's unmasked tokens
        let gradient_norm =
            clip_gradient_norm(trainee.parameters_mut()?, training.max_gradient_norm)?;
        if !(loss.mean().is_finite() && gradient_norm.is_finite()) {
            return Err(diverged(
                optimizer.steps() + 1,
                loss.mean(),
                gradient_norm,
                rate,
            ));
        }
        optimizer.step(trainee.parameters_mut()?, rate)?;

        let step = optimizer.steps();
        let epoch = plan.batches.epochs_after(step);
        let usual = spikes.check(loss.mean());
        if let Some(usual) = usual {
            reporter.spike(step, loss.mean(), usual);
        }
        reporter.step(&Step {
            step,
            epoch,
            loss: loss.mean(),
            learning_rate: rate,
            gradient_norm,
            tokens: loss.tokens,
            duration: started.elapsed(),
        });
        let validation = if plan.validates_after(step) {
            let validation = trainee.loss(&inputs.data.validation, plan.micro_batch_size)?;
            reporter.validation(step, validation.mean());
            if let Some(early_stopping) = &mut early_stopping
                && early_stopping.validated(step, validation.mean())
            {
                reporter.best(step, validation.mean());
                let values = trainee.parameters()?.values()?.to_vec();
                best = Some(Best { step, values });
            }
            Some(validation)
        } else {
            None
        };
        let row = Row {
            step,
            epoch,
            loss: loss.mean(),
            accuracy: loss.accuracy(),
            learning_rate: rate,
            gradient_norm,
            tokens: loss.tokens,
            spike: usual.is_some(),
            validation_loss: validation.map(|validation| validation.mean()),
            validation_accuracy: validation.map(|validation| validation.accuracy()),
        };
        metrics.push(row, (run.now)()).map_err(Failure::internal)?;
        let is_last = step == plan.total_steps || is_exhausted(&early_stopping);
        if is_last || saver.is_due(step) {
            saver
                .save(trainee, &optimizer, &metrics, best.as_ref())
                .await?;
        }
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
            .parameters_mut()?
            .values_mut()?
            .copy_from_slice(&best.values);
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
        optimizer: &Optimizer,
        metrics: &MetricsLog,
        best: Option<&Best>,
    ) -> Result<(), Failure> {
        let Run {
            job,
            place,
            reporter,
            now,
            ..
        } = *self.run;
        let step = optimizer.steps();
        if step == self.saved_step {
            return Ok(());
        }
        let state = RunState {
            parameters: trainee.parameters()?,
            optimizer,
            metrics,
            best,
        };
        let keep = job.spec.checkpoint.keep as usize;
        checkpoint::write(place, self.attempt, self.identity, &state, keep).await?;
        write_metrics(place, metrics).await?;
        reporter.checkpoint(step, now());
        self.saved_step = step;
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
