//! `outcome.json` and the termination message: how a stage ended, said once and found again.
//!
//! The outcome of a train stage is created only after all it names was published, and never replaced: whoever finds it
//! has nothing left to do. A failure is told by the termination message alone, because another try may still succeed.

use std::path::Path;

use bytes::Bytes;
use finetune_artifacts::store::{Creation, Store};
use finetune_crds::contract::{Outcome, OutcomeReason, Progress, Stage, layout};

use crate::failure::Failure;
use crate::job::Job;

/// A good outcome of `stage` that says nothing else yet.
pub fn succeeded(job: &Job, stage: Stage, attempt: u32) -> Outcome {
    Outcome {
        uid: job.uid.clone(),
        spec_digest: job.spec_digest.clone(),
        ..empty(stage, attempt, OutcomeReason::Succeeded, String::new())
    }
}

fn empty(stage: Stage, attempt: u32, reason: OutcomeReason, message: String) -> Outcome {
    Outcome {
        stage,
        reason,
        message,
        field: None,
        uid: String::new(),
        spec_digest: String::new(),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        attempt,
        adapter: None,
        model: None,
        gguf_adapter: None,
        dataset: None,
        base_model: None,
        plan: None,
        progress: None,
        warnings: Vec::new(),
    }
}

/// The outcome of a failure. `job` is absent where not even the manifest could be read.
pub fn of_failure(
    job: Option<&Job>,
    stage: Stage,
    attempt: u32,
    failure: &Failure,
    progress: Option<Progress>,
) -> Outcome {
    Outcome {
        uid: job.map(|job| job.uid.clone()).unwrap_or_default(),
        spec_digest: job.map(|job| job.spec_digest.clone()).unwrap_or_default(),
        field: failure.field.map(str::to_owned),
        progress,
        ..empty(stage, attempt, failure.reason, failure.message.clone())
    }
}

/// The outcome that an earlier process left in the job's folder.
///
/// The folder of another spec is refused: its result would be taken for this one's.
pub async fn find(folder: &Store, job: &Job) -> Result<Option<Outcome>, Failure> {
    let Some(bytes) = folder.read_optional(layout::OUTCOME).await? else {
        return Ok(None);
    };
    let place = folder.uri_of(layout::OUTCOME);
    let outcome: Outcome = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::invalid(format!(
            "{place} is not an outcome ({error}): choose another --work, or remove the folder"
        ))
    })?;
    if !job.spec.has_digest(&outcome.spec_digest) {
        return Err(Failure::invalid(format!(
            "{place} is of another spec ({}, this one is {}): choose another --work, or remove the folder",
            outcome.spec_digest, job.spec_digest
        )));
    }
    Ok(Some(outcome))
}

/// Leaves `outcome` in the job's folder. Where another attempt has left one already, that one counts and is returned.
pub async fn create(folder: &Store, job: &Job, outcome: Outcome) -> Result<Outcome, Failure> {
    let bytes = serde_json::to_vec(&outcome).map_err(Failure::internal)?;
    match folder.create(layout::OUTCOME, Bytes::from(bytes)).await? {
        Creation::Created => Ok(outcome),
        Creation::AlreadyExists => Ok(find(folder, job).await?.unwrap_or(outcome)),
    }
}

/// Writes the termination message to `path`, as the kubelet reads it.
pub fn write_termination_message(path: &Path, outcome: &Outcome) -> std::io::Result<()> {
    std::fs::write(path, outcome.termination_message())
}
