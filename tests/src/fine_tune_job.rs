//! Looking at FineTuneJobs as a test does: their phase, conditions, result and files.

use anyhow::{Context, Result, bail};
use finetune_crds::FineTuneJob;
use finetune_crds::fine_tune_job::{JobPhase, ResultStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use object_store::{ObjectStoreExt, path::Path};
use serde_json::Value;

use crate::cluster::Namespace;
use crate::wait;

/// The phase of a job.
pub fn phase(job: &FineTuneJob) -> Option<JobPhase> {
    job.status.as_ref().and_then(|status| status.phase)
}

/// A condition of a job.
pub fn condition<'a>(job: &'a FineTuneJob, type_: &str) -> Option<&'a Condition> {
    job.status
        .as_ref()?
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

/// Waits until a job has succeeded; a job that fails ends the wait with its conditions.
pub async fn succeeded(namespace: &Namespace, name: &str, seconds: u64) -> Result<FineTuneJob> {
    let job = finished(namespace, name, seconds).await?;
    if phase(&job) != Some(JobPhase::Succeeded) {
        bail!("{name} failed: {}", serde_json::to_string(&job.status)?);
    }
    Ok(job)
}

/// Waits until a job has ended, well or badly.
pub async fn finished(namespace: &Namespace, name: &str, seconds: u64) -> Result<FineTuneJob> {
    wait::object(
        &namespace.api::<FineTuneJob>(),
        name,
        "finished",
        seconds,
        |job| phase(job).is_some_and(JobPhase::is_finished),
    )
    .await
}

/// Waits until a job has done at least `step` steps.
pub async fn at_step(
    namespace: &Namespace,
    name: &str,
    step: i64,
    seconds: u64,
) -> Result<FineTuneJob> {
    wait::object(
        &namespace.api::<FineTuneJob>(),
        name,
        "at its step",
        seconds,
        |job| {
            job.status
                .as_ref()
                .and_then(|status| status.progress.as_ref())
                .is_some_and(|progress| progress.step >= step)
        },
    )
    .await
}

/// A finished job's result.
pub fn result(job: &FineTuneJob) -> Result<&ResultStatus> {
    job.status
        .as_ref()
        .and_then(|status| status.result.as_ref())
        .context("the job has no result")
}

/// A file of the job's own folder in the bucket `adapters`.
pub async fn file(job: &FineTuneJob, name: &str) -> Result<String> {
    let uid = job.uid().context("the job has no UID")?;
    let path = Path::from(format!(".finetune/jobs/{uid}/{name}"));
    let bytes = crate::store::bucket("adapters")?
        .get(&path)
        .await?
        .bytes()
        .await?;
    Ok(String::from_utf8(bytes.to_vec())?)
}

/// The rows of `metrics.jsonl`.
pub async fn metrics(job: &FineTuneJob) -> Result<Vec<Value>> {
    file(job, "metrics.jsonl")
        .await?
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}
