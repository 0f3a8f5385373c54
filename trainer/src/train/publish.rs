//! What a run leaves behind: its result, published, and its files in the job's folder.
//!
//! What is published counts once its manifest is written, and the job is done once `outcome.json` names it. Until then the next
//! process does it all again.

use std::path::Path;

use finetune_artifacts::publish::stage;
use finetune_crds::contract::{Outcome, Published, Stage, layout};
use finetune_crds::fine_tune_job::{ComputeType, PlanStatus};

use crate::attempt::Attempt;
use crate::failure::Failure;
use crate::job::TrainingMethod;
use crate::metrics_log::MetricsLog;
use crate::outcome;
use crate::run::Run;
use crate::run::inputs::Inputs;
use crate::run::plan::Plan;
use crate::workplace::Workplace;

/// A result in local folders.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    /// The adapter, or with method `full` the whole model.
    pub folder: &'a Path,
    /// The base with the adapter merged into it, where it is wanted.
    pub merged: Option<&'a Path>,
}

/// A result that others can fetch.
pub(super) struct PublishedResult {
    adapter: Option<Published>,
    model: Option<Published>,
}

/// Publishes a result. Fails with `Superseded`, and publishes nothing, once a newer attempt has claimed the job.
pub(super) async fn publish(
    run: &Run<'_>,
    attempt: &Attempt,
    written: Written<'_>,
) -> Result<PublishedResult, Failure> {
    let Run {
        job, place, stop, ..
    } = *run;
    let staged = stage(&place.versions(job)?, "", written.folder).await?;
    let staged_model = match written.merged {
        Some(merged) => Some(stage(&place.models(job)?, "", merged).await?),
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
    Ok(match &job.method {
        TrainingMethod::Full => PublishedResult {
            adapter: None,
            model: Some(published),
        },
        TrainingMethod::Lora(_) | TrainingMethod::Qlora { .. } => PublishedResult {
            adapter: Some(published),
            model: merged_model,
        },
    })
}

/// Writes what the job's folder keeps of a run, and last its outcome, with which the job is done.
pub(super) async fn conclude(
    run: &Run<'_>,
    attempt: &Attempt,
    result: PublishedResult,
    inputs: &Inputs,
    plan: PlanStatus,
    metrics: &MetricsLog,
) -> Result<Outcome, Failure> {
    let Run {
        job,
        place,
        reporter,
        ..
    } = *run;
    let files = &place.job_folder;
    files
        .write(layout::METRICS_CSV, metrics.to_csv().into())
        .await?;
    write_metrics(place, metrics).await?;
    files
        .write(layout::DATASET_REPORT, inputs.data.report.to_json().into())
        .await?;
    let PublishedResult { adapter, model } = result;
    let outcome = Outcome {
        gguf_adapter: adapter
            .as_ref()
            .filter(|_| job.wants_gguf_adapter())
            .map(|adapter| format!("{}{}", adapter.uri, layout::ADAPTER_GGUF)),
        adapter,
        model,
        dataset: Some(inputs.data.report.dataset.clone()),
        base_model: Some(inputs.base.status(Some(inputs.base_digest.clone()))),
        plan: Some(plan),
        progress: Some(reporter.progress()),
        ..outcome::succeeded(job, Stage::Train, attempt.number)
    };
    outcome::create(files, job, outcome).await
}

/// Writes the plan of a run that trains so many `parameters` and computes in this type.
pub(super) async fn write_plan(
    place: &Workplace,
    plan: &Plan,
    parameters: usize,
    compute_type: ComputeType,
) -> Result<PlanStatus, Failure> {
    let status = PlanStatus {
        compute_type: Some(format!("{compute_type:?}")),
        ..plan.status(Some(parameters as i64))
    };
    let json = serde_json::to_vec_pretty(&status).map_err(Failure::internal)?;
    place.job_folder.write(layout::PLAN, json.into()).await?;
    Ok(status)
}

/// The metrics that a running job shows too.
pub(super) async fn write_metrics(place: &Workplace, metrics: &MetricsLog) -> Result<(), Failure> {
    let files = &place.job_folder;
    files
        .write(layout::METRICS_JSONL, metrics.to_jsonl().into())
        .await?;
    files
        .write(layout::TENSORBOARD, metrics.events().to_vec().into())
        .await?;
    Ok(())
}
