//! One run, from the manifest to the published result: look for an outcome, claim, prepare, load, resume, loop, export,
//! publish, say how it ended.
//!
//! A process may die after any line of this file: what it has done by then is found by the next one, and done once.

mod early_stopping;
mod saver;
mod spikes;
mod steps;

use finetune_crds::contract::{Outcome, OutcomeReason, RunPhase, Stage, layout};
use finetune_crds::fine_tune_job::PlanStatus;

use crate::attempt::Attempt;
use crate::checkpoint::{self, Identity};
use crate::failure::Failure;
use crate::job::{Job, TrainingMethod};
use crate::metrics_log::MetricsLog;
use crate::progress::Reporter;
use crate::run::Run;
use crate::run::inputs::Inputs;
use crate::run::plan::{DEALING, Plan};
use crate::run::trainee::Trainee;
use crate::workplace::{TemporaryFolder, Workplace};
use crate::{device, export, outcome};

use finetune_dataset::lengths;
use steps::run_steps;

/// Trains and publishes, or finds that this was done.
pub async fn train(run: &Run<'_>) -> Result<Outcome, Failure> {
    let Run {
        job,
        place,
        reporter,
        stop,
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
        job,
        &lengths(&inputs.data.train),
        !inputs.data.validation.is_empty(),
    );
    let begun = checkpoint::conduct(place).await?;
    if let Some(begun) = begun.filter(|begun| begun.dealing != DEALING) {
        tracing::warn!(
            "the run was begun by a trainer that dealt rows to steps in another way ({}, this one {DEALING}): it goes on, but some rows come twice and others late",
            begun.dealing
        );
    }
    let begun_in = begun.map(|begun| begun.compute_type);
    let compute = device::kind_of_run(job.spec.training.compute_type, begun_in);
    let mut trainee = Trainee::load(job, &inputs, compute, plan.seed)
        .map_err(|failure| advised(failure, job, &plan))?;
    let identity = Identity {
        spec_digest: job.spec_digest.clone(),
        earlier_spec_digest: job.spec.earlier_digest(),
        dataset_digest: inputs.data.report.tokens_digest.clone(),
        base_digest: inputs.base_digest.clone(),
        parameters: trainee.parameters().count(),
    };
    let plan_status = PlanStatus {
        compute_type: Some(format!("{:?}", device::compute_type(compute))),
        ..plan.status(Some(identity.parameters as i64))
    };
    let plan_json = serde_json::to_vec_pretty(&plan_status).map_err(Failure::internal)?;
    place
        .job_folder
        .write(layout::PLAN, plan_json.into())
        .await?;

    stop.finish_first();
    let metrics = run_steps(run, &attempt, &plan, &identity, &inputs, &mut trainee)
        .await
        .map_err(|failure| advised(failure, job, &plan))?;
    // What comes now may take long, and the next process makes it again.
    if stop.end_at_once() {
        return Err(told_to_stop(reporter));
    }

    reporter.phase(RunPhase::Evaluating);
    let folder = place.temporary()?;
    let merged = job
        .wants_merged_model()
        .then(|| place.temporary())
        .transpose()?;
    let merged = merged.as_ref().map(TemporaryFolder::path);
    export::write(folder.path(), merged, job, &inputs, &plan, trainee.trained)?;

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
    // From here on it is a few small files to the end.
    stop.finish_first();
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

    let (adapter, model) = match &job.method {
        TrainingMethod::Full => (None, Some(published)),
        TrainingMethod::Lora(_) | TrainingMethod::Qlora { .. } => (Some(published), merged_model),
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
