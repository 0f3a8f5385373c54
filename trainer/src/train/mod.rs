//! One run, from the manifest to the published result: look for an outcome, claim, prepare, load, resume, loop, export,
//! publish, say how it ended.
//!
//! A process may die after any line of this file: what it has done by then is found by the next one, and done once.

mod early_stopping;
mod failures;
mod publish;
mod saver;
mod spikes;
mod state;
mod steps;

use finetune_crds::contract::{Outcome, RunPhase, layout};
use finetune_dataset::lengths;
use tch::Kind;

use crate::attempt::Attempt;
use crate::checkpoint::{self, Identity};
use crate::failure::Failure;
use crate::job::Job;
use crate::run::Run;
use crate::run::inputs::Inputs;
use crate::run::plan::{DEALING, Plan};
use crate::run::trainee::Trainee;
use crate::workplace::{TemporaryFolder, Workplace};
use crate::{device, export, outcome};

use failures::advised;
use publish::Written;
use steps::run_steps;

pub use failures::told_to_stop;

/// Trains and publishes, or finds that this was done.
pub async fn train(run: &Run<'_>) -> Result<Outcome, Failure> {
    let Run {
        job,
        place,
        reporter,
        stop,
        ..
    } = *run;

    // What an earlier process has finished stays as it is.
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

    // Data, plan, model.
    let inputs = Inputs::of(job, place).await?;
    let has_validation = !inputs.data.validation.is_empty();
    let plan = Plan::new(job, &lengths(&inputs.data.train), has_validation);
    let compute = compute_kind(job, place).await?;
    let mut trainee = Trainee::load(job, &inputs, compute, plan.seed)
        .map_err(|failure| advised(failure, job, &plan))?;
    let identity = identity(job, &inputs, &trainee);
    let compute_type = device::compute_type(compute);
    let plan_status = publish::write_plan(place, &plan, identity.parameters, compute_type).await?;

    // From the newest checkpoint to the last step.
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
    let written = Written {
        folder: folder.path(),
        merged: merged.as_ref().map(TemporaryFolder::path),
    };
    export::write(
        written.folder,
        written.merged,
        job,
        &inputs,
        &plan,
        trainee.trained,
    )?;

    reporter.phase(RunPhase::Publishing);
    let result = publish::publish(run, &attempt, written).await?;
    let outcome = publish::conclude(run, &attempt, result, &inputs, plan_status, &metrics).await?;
    remove_passing(place).await;
    Ok(outcome)
}

/// The type in which the run computes: that in which it was begun, where it was.
async fn compute_kind(job: &Job, place: &Workplace) -> Result<Kind, Failure> {
    let begun = checkpoint::conduct(place).await?;
    if let Some(begun) = begun.filter(|begun| begun.dealing != DEALING) {
        tracing::warn!(
            "the run was begun by a trainer that dealt rows to steps in another way ({}, this one {DEALING}): it goes on, but some rows come twice and others late",
            begun.dealing
        );
    }
    let begun_in = begun.map(|begun| begun.compute_type);
    Ok(device::kind_of_run(
        job.spec.training.compute_type,
        begun_in,
    ))
}

/// What its checkpoints must belong to.
fn identity(job: &Job, inputs: &Inputs, trainee: &Trainee) -> Identity {
    Identity {
        spec_digest: job.spec_digest.clone(),
        earlier_spec_digest: job.spec.earlier_digest(),
        dataset_digest: inputs.data.report.tokens_digest.clone(),
        base_digest: inputs.base_digest.clone(),
        parameters: trainee.parameters().count(),
    }
}

/// Removes what only a running job needs. What stays behind costs room, not correctness.
async fn remove_passing(place: &Workplace) {
    if let Err(error) = place.passing.delete_below("").await {
        tracing::warn!("failed to remove {}: {error}", place.passing.uri());
    }
}
