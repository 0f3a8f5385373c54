//! Checkpoints: a run's state at a step, complete or absent.
//!
//! `attempts/<N>/checkpoints/<step>/` holds `state.safetensors` (weights, the optimiser's state and, with early stopping,
//! the best weights), `state.json`, `metrics.jsonl` and `events.tfevents`; `manifest.json` comes last and makes them count.
//! What a manifest does not name is never read. The position in the data is the step itself: the rows of a step are a pure
//! function of seed and step.

mod files;

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use finetune_artifacts::manifest::Manifest;
use finetune_artifacts::store::Store;
use finetune_crds::contract::{OutcomeReason, layout};
use finetune_crds::fine_tune_job::ComputeType;
use finetune_numerics::optimizer::{Optimizer, Parameters};
use serde::{Deserialize, Serialize};

use crate::attempt::{Attempt, number_of};
use crate::failure::Failure;
use crate::metrics_log::{MetricsLog, StepReport};
use crate::workplace::Workplace;

/// What a checkpoint belongs to. A run never goes on from another one's.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The digest of the manifest's spec.
    pub spec_digest: String,
    /// The same in the form of earlier versions, whose checkpoints are gone on from. Never written.
    #[serde(skip)]
    pub earlier_spec_digest: String,
    /// The digest of the prepared data.
    pub dataset_digest: String,
    /// The digest of the base.
    pub base_digest: String,
    /// The number of trained parameters.
    pub parameters: usize,
}

/// What a checkpoint is made of.
#[derive(Clone, Copy, Debug)]
pub struct RunState<'run> {
    /// What is trained.
    pub parameters: &'run Parameters,
    /// Its state, and the steps taken.
    pub optimizer: &'run Optimizer,
    /// The metrics of all steps so far.
    pub metrics: &'run MetricsLog,
    /// With early stopping: the best weights so far.
    pub best: Option<&'run Best>,
    /// The last step where its validation is still to be done; then `metrics` does not have it yet.
    pub unvalidated: Option<&'run StepReport>,
    /// How the run computes.
    pub conduct: Conduct,
}

/// What must not change within a run, though neither manifest nor data say it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Conduct {
    /// What `computeType` `Auto` came to, or what the manifest says.
    pub compute_type: ComputeType,
    /// Which way rows are dealt to steps ([`crate::run::plan::DEALING`]).
    pub dealing: u32,
}

/// The weights that had the lowest validation loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// The step after which they had it.
    pub step: u64,
    /// The trained parameters, flat.
    pub values: Vec<f32>,
}

/// A run's state after [`Self::step`] steps.
#[derive(Debug)]
pub struct Checkpoint {
    /// Optimiser steps done.
    pub step: u64,
    /// The trained parameters, flat.
    pub values: Vec<f32>,
    /// The optimiser's state: bytes by name.
    pub optimizer: BTreeMap<String, Vec<u8>>,
    /// With early stopping: the best weights up to this step.
    pub best: Option<Best>,
    /// The metrics of all steps up to this one, but for the one that [`Self::unvalidated`] has.
    pub metrics: MetricsLog,
    /// The last step, where the run was stopped before its validation was done.
    pub unvalidated: Option<StepReport>,
}

/// A complete checkpoint in the passing folder.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Place {
    step: u64,
    attempt: u32,
    folder: String,
}

impl Checkpoint {
    /// Puts the state back where it came from.
    pub fn restore(
        &self,
        parameters: &mut Parameters,
        optimizer: &mut Optimizer,
    ) -> Result<(), Failure> {
        parameters.values_mut()?.copy_from_slice(&self.values);
        optimizer.restore(self.step, |name| {
            self.optimizer.get(name).map(Vec::as_slice)
        })?;
        Ok(())
    }
}

/// Writes the state after the last step. Fails with `Superseded`, and completes nothing, once a newer attempt has claimed the
/// job. What was written of one that fails is deleted.
pub async fn write(
    place: &Workplace,
    attempt: &Attempt,
    identity: &Identity,
    run: &RunState<'_>,
) -> Result<(), Failure> {
    let step = run.optimizer.steps();
    let local = place.temporary()?;
    files::write(local.path(), identity, run)?;
    let path = format!("{}{}", attempt.folder(), layout::checkpoint_folder(step));
    let folder = place.passing.child(&path)?;
    let uploaded = upload(&folder, attempt, local.path()).await;
    if let Err(failure) = &uploaded {
        discard(&place.passing, &path, failure).await;
    }
    uploaded
}

async fn upload(folder: &Store, attempt: &Attempt, local: &Path) -> Result<(), Failure> {
    let manifest = Manifest::of_folder(local)?;
    for file in &manifest.files {
        folder.upload(&file.path, &local.join(&file.path)).await?;
    }
    attempt.ensure_newest().await?;
    folder
        .write(layout::MANIFEST, Bytes::from(manifest.to_bytes()))
        .await?;
    Ok(())
}

/// Deletes what lies in the folder of a checkpoint that failed: on a full disk it would leave no room for the next one. A store that
/// is out of reach is not asked, since the answer would take long; the next complete checkpoint deletes what lies there.
async fn discard(passing: &Store, folder: &str, failure: &Failure) {
    if failure.reason == OutcomeReason::Unavailable {
        return;
    }
    if let Err(error) = passing.delete_below(folder).await {
        tracing::warn!(
            "failed to delete the incomplete checkpoint {}: {error}; it takes room until the next complete one",
            passing.uri_of(folder)
        );
    }
}

/// How the run computes that the newest complete checkpoint is of; `None` where there is none, or it was written by a trainer
/// that did not say. To be known before the base is loaded, hence before [`newest`].
pub async fn conduct(place: &Workplace) -> Result<Option<Conduct>, Failure> {
    let mut places = complete(&place.passing).await?;
    places.sort();
    while let Some(found) = places.pop() {
        let state = format!("{}{}", found.folder, files::STATE);
        let Some(bytes) = place.passing.read_optional(&state).await? else {
            continue;
        };
        if let Some(conduct) = files::conduct(&bytes) {
            return Ok(Some(conduct));
        }
    }
    Ok(None)
}

/// The newest complete checkpoint of any attempt that belongs to `identity`; `None` where there is none.
///
/// A damaged one is passed over with a warning. One that belongs to another spec, base or data is an error, and so is one for which
/// there is no room here: to train from the start in its place would throw its work away without a word.
pub async fn newest(place: &Workplace, identity: &Identity) -> Result<Option<Checkpoint>, Failure> {
    let mut places = complete(&place.passing).await?;
    places.sort();
    while let Some(found) = places.pop() {
        let folder = place.passing.child(&found.folder)?;
        match read(place, &folder, identity).await {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            // A full disk here says nothing of the checkpoint there.
            Err(failure)
                if failure.reason == OutcomeReason::Internal && failure.local.is_none() =>
            {
                tracing::warn!("{} is damaged and passed over: {failure}", folder.uri());
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

async fn read(
    place: &Workplace,
    folder: &Store,
    identity: &Identity,
) -> Result<Checkpoint, Failure> {
    let damaged = |error: finetune_artifacts::Error| match error.reason() {
        OutcomeReason::InvalidInput | OutcomeReason::NotFound => Failure::internal(error),
        _ => Failure::from(error),
    };
    let bytes = folder.read(layout::MANIFEST).await.map_err(damaged)?;
    let manifest = Manifest::parse(&bytes, &folder.uri_of(layout::MANIFEST)).map_err(damaged)?;
    let local = place.temporary()?;
    for file in &manifest.files {
        folder
            .download(
                &file.path,
                &local.path().join(&file.path),
                Some(&file.digest()),
                &|_, _| {},
            )
            .await
            .map_err(damaged)?;
    }
    files::read(local.path(), &folder.uri(), identity)
}

/// Deletes what is older than the newest `keep` complete checkpoints, of this attempt and of those that it has
/// superseded. A half-written one of theirs goes too.
pub async fn delete_old(place: &Workplace, attempt: &Attempt, keep: usize) -> Result<(), Failure> {
    let passing = &place.passing;
    let mut places = complete(passing).await?;
    places.sort();
    let kept: Vec<Place> = places.split_off(places.len().saturating_sub(keep));
    let mut folders: Vec<String> = all_folders(passing).await?;
    folders.retain(|folder| {
        number_of(folder).is_some_and(|number| number <= attempt.number)
            && kept.iter().all(|place| place.folder != *folder)
    });
    for folder in folders {
        passing.delete_below(&folder).await?;
    }
    Ok(())
}

/// Every complete checkpoint.
async fn complete(passing: &Store) -> Result<Vec<Place>, Failure> {
    let entries = passing.list(layout::ATTEMPTS).await?;
    Ok(entries
        .iter()
        .filter_map(|entry| {
            let folder = entry.path.strip_suffix(layout::MANIFEST)?;
            let step = step_of(folder)?;
            let attempt = number_of(folder)?;
            Some(Place {
                step,
                attempt,
                folder: folder.to_owned(),
            })
        })
        .collect())
}

/// The folder of every checkpoint, complete or not.
async fn all_folders(passing: &Store) -> Result<Vec<String>, Failure> {
    let entries = passing.list(layout::ATTEMPTS).await?;
    let mut folders: Vec<String> = entries
        .iter()
        .filter_map(|entry| {
            let (folder, _) = entry.path.rsplit_once('/')?;
            let folder = format!("{folder}/");
            step_of(&folder).map(|_| folder)
        })
        .collect();
    folders.dedup();
    Ok(folders)
}

/// The step in `attempts/000001/checkpoints/000000100/`.
fn step_of(folder: &str) -> Option<u64> {
    let mut parts = folder.strip_suffix('/')?.rsplit('/');
    let step = parts.next()?.parse().ok()?;
    (parts.next()? == "checkpoints").then_some(step)
}

#[cfg(test)]
mod tests;
