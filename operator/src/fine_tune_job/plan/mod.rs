//! Decides what is to be done about a `FineTuneJob`, from nothing but plain data and the time. Never talks to a cluster.
//!
//! What was once recorded in the status is not looked for again: a dataset found valid stays so, a result stays the
//! result. Each decision waits until the one before it is stored, so a crash between two of them repeats one, and none
//! is lost.

pub mod attempts;
pub mod cause;
pub mod config_map;
pub mod field_owner;
pub mod labels;
mod outcome;
pub mod pod;
mod prepare;
pub mod publish;
pub mod retries;
pub mod stage_job;
mod train;
mod unschedulable;
mod volumes;
mod warnings;

use std::collections::BTreeMap;
use std::time::Duration;

use finetune_crds::contract::Stage;
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::condition;
use finetune_crds::{FineTuneJob, FineTuneJobStatus};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::events::NewEvent;
use super::reasons;
use super::seen::{Child, PodSeen, Seen};
use super::status::{Draft, condition_of, is_true, reason_of};
use super::validate::{Validated, Verdict};
use crate::settings::OperatorSettings;

pub use publish::Publication;

/// Between two looks at a run that reports progress.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at what a watch should have told anyway.
const SAFETY_INTERVAL: Duration = Duration::from_secs(20);
/// Until something that only a person can mend is looked at again.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest between two tries of what the API server refuses.
const MOST_PATIENCE: Duration = Duration::from_mins(10);

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Children to create, in order.
    pub create: Vec<NewChild>,
    /// What is to be deleted, in order.
    pub delete: Vec<Doomed>,
    /// The Adapter to write. `status` then speaks of the time after it is written.
    pub publish: Option<Publication>,
    /// The status to store.
    pub status: FineTuneJobStatus,
    /// What is worth an Event beside the changes of the status.
    pub events: Vec<NewEvent>,
    /// When to look again, if nothing happens before; absent: only when something does.
    pub next_check: Option<Duration>,
}

/// A child to create.
#[derive(Clone, Debug, PartialEq)]
pub enum NewChild {
    /// The manifest for the trainer.
    ConfigMap(Box<ConfigMap>),
    /// A stage.
    Job(Box<Job>),
}

/// An object to delete, and only this one: not another that has its name by now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Doomed {
    /// Its kind.
    pub kind: DoomedKind,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// What may be deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DoomedKind {
    /// A stage, with its pods.
    Job,
    /// The manifest.
    ConfigMap,
    /// A pod whose node no longer answers, without waiting for that node.
    Pod,
}

impl Plan {
    /// Whether nothing is to be done to the cluster, the stored status included.
    pub fn is_empty(&self, stored: Option<&FineTuneJobStatus>) -> bool {
        self.create.is_empty()
            && self.delete.is_empty()
            && self.publish.is_none()
            && self.events.is_empty()
            && stored == Some(&self.status)
    }
}

/// What is to be done about `job`, given what was found.
pub fn plan(
    job: &FineTuneJob,
    verdict: &Verdict,
    seen: &Seen,
    settings: &OperatorSettings,
    now: Timestamp,
) -> Plan {
    let stored = job.status.as_ref();
    if job.metadata.deletion_timestamp.is_some() {
        // The children go with their owner.
        return Plan {
            status: stored.cloned().unwrap_or_default(),
            ..Plan::default()
        };
    }
    let mut plan = decide(job, verdict, seen, settings, now);
    plan.status.reason = reason_of(&plan.status);
    plan
}

fn decide(
    job: &FineTuneJob,
    verdict: &Verdict,
    seen: &Seen,
    settings: &OperatorSettings,
    now: Timestamp,
) -> Plan {
    let stored = job.status.as_ref();
    let draft = Draft::new(stored, job.metadata.generation, now);
    if stored
        .and_then(|status| status.phase)
        .is_some_and(JobPhase::is_finished)
    {
        return clear_up(job, seen, draft);
    }
    match verdict {
        Err(faults) => reject(faults, draft),
        Ok(valid) if draft.status.result.is_some() => publish::plan(valid, seen, draft),
        Ok(valid) if is_true(stored, condition::DATASET_VALID) => {
            if valid.spec.dry_run {
                end_dry_run(draft)
            } else {
                train::plan(valid, seen, settings, draft, now)
            }
        }
        Ok(valid) => prepare::plan(valid, seen, settings, draft, now),
    }
}

/// What the API server's refusal of a child or of the Adapter means. `next_check` and status replace the plan's.
pub fn refused(
    job: &FineTuneJob,
    refusal: &Refusal,
    now: Timestamp,
) -> (FineTuneJobStatus, Option<Duration>) {
    let mut draft = Draft::new(job.status.as_ref(), job.metadata.generation, now);
    let what = format!(
        "the API server refuses {}: {}",
        refusal.what, refusal.message
    );
    let again = format!(
        "{what}; it is tried again, at the latest after {} minutes",
        MOST_PATIENCE.as_secs() / 60
    );
    let mut next_check = None;
    if refusal.of_adapter {
        draft.phase(JobPhase::Publishing);
        next_check = Some(patience(job, condition::PUBLISHED, now));
        draft.condition(condition::PUBLISHED, "False", REFUSED, &again);
    } else if refusal.is_final {
        draft.failed(
            REFUSED,
            &format!("{what}; correct the spec in a new FineTuneJob"),
        );
    } else {
        let phase = draft.status.phase.unwrap_or_default();
        draft.phase(phase);
        next_check = Some(patience(job, condition::PODS_RUNNING, now));
        draft.condition(condition::PODS_RUNNING, "False", REFUSED, &again);
    }
    draft.status.reason = reason_of(&draft.status);
    (draft.status, next_check)
}

/// The reason of what the API server refuses.
const REFUSED: &str = "Refused";

/// Until a refused write is tried again: as long as it has been refused already, within bounds.
fn patience(job: &FineTuneJob, type_: &str, now: Timestamp) -> Duration {
    let since = condition_of(job.status.as_ref(), type_)
        .filter(|known| known.status == "False" && known.reason == REFUSED)
        .map_or(now, |known| known.last_transition_time.0);
    let age = now.as_second().saturating_sub(since.as_second());
    Duration::from_secs(u64::try_from(age).unwrap_or_default()).clamp(PATIENCE, MOST_PATIENCE)
}

/// A creation that the API server refused for what it asks, not for a passing trouble.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Kind and name of what was to be written.
    pub what: String,
    /// What the API server said.
    pub message: String,
    /// Whether the same request can never be accepted.
    pub is_final: bool,
    /// Whether it was the Adapter.
    pub of_adapter: bool,
}

/// A finished job's Job has no business any more; a finished job is never run again because a child has gone.
fn clear_up(job: &FineTuneJob, seen: &Seen, mut draft: Draft) -> Plan {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut delete = Vec::new();
    for (stage, child) in [(Stage::Prepare, &seen.prepare), (Stage::Train, &seen.train)] {
        if let Child::Ours {
            uid,
            deleting: false,
            is,
        } = child
            && is.end.is_none()
        {
            delete.push(doomed_job(name, stage, uid));
        }
    }
    let phase = draft.status.phase.unwrap_or_default();
    draft.phase(phase);
    Plan {
        delete,
        status: draft.status,
        ..Plan::default()
    }
}

fn reject(faults: &[String], mut draft: Draft) -> Plan {
    let message = format!("{}; correct it in a new FineTuneJob", faults.join("; "));
    draft.failed("InvalidSpec", &message);
    Plan {
        status: draft.status,
        ..Plan::default()
    }
}

fn end_dry_run(mut draft: Draft) -> Plan {
    let message = "The data is valid and the run is planned: see status.dataset and status.plan. Nothing was trained.";
    draft.condition(
        condition::PUBLISHED,
        "False",
        "DryRun",
        "spec.dryRun is true, so nothing is trained or published.",
    );
    draft.succeeded("DryRun", message);
    Plan {
        status: draft.status,
        ..Plan::default()
    }
}

/// A child's metadata: named, labelled, and gone with its owner.
fn child_metadata(job: &Validated, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(job.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![OwnerReference {
            api_version: format!(
                "{}/{}",
                finetune_crds::names::GROUP,
                finetune_crds::names::VERSION
            ),
            kind: "FineTuneJob".to_owned(),
            name: job.name.clone(),
            uid: job.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}

/// The Job of a stage, to be deleted.
fn doomed_job(job: &str, stage: Stage, uid: &str) -> Doomed {
    Doomed {
        kind: DoomedKind::Job,
        name: stage_job::name(job, stage),
        uid: uid.to_owned(),
    }
}

/// Gives up a pod whose node is lost. Its Job goes too: it would wait for the pod's end for ever, and holds a finalizer on it
/// until then. A new Job is made at the next look; the claim of an attempt keeps out a trainer that lives on unseen.
///
/// The pod comes first: pods are found by their Job, so one that outlived it would keep its quota and its claims unseen. Nothing
/// is deleted before the stage's failures are stored, which only the Job knows; but a definition of an earlier version, which has no
/// place for them, holds nothing up.
fn give_up_lost(
    job: &Validated,
    stage: Stage,
    job_uid: &str,
    pod: &PodSeen,
    counted: bool,
    draft: &mut Draft,
    now: Timestamp,
) -> Vec<Doomed> {
    let cause = cause::lost_pod(pod);
    draft.condition(
        condition::PODS_RUNNING,
        "False",
        &cause.reason,
        &cause.message,
    );
    if !counted && !cause::is_long_lost(pod, now) {
        return Vec::new();
    }
    let pod = Doomed {
        kind: DoomedKind::Pod,
        name: pod.name.clone(),
        uid: pod.uid.clone(),
    };
    vec![pod, doomed_job(&job.name, stage, job_uid)]
}

/// Says that what an earlier FineTuneJob of the same name left has yet to go.
fn leftover(draft: &mut Draft, what: &str) {
    draft.condition(
        condition::PODS_RUNNING,
        "False",
        reasons::LEFTOVER,
        &format!("{what} of an earlier FineTuneJob of this name is being removed by Kubernetes; this job goes on then"),
    );
}

/// Says that somebody else's object has the name of a child.
fn name_clash(draft: &mut Draft, what: &str, owner: &str) {
    draft.condition(
        condition::PODS_RUNNING,
        "False",
        "NameClash",
        &format!("{what} exists already and belongs to {owner}: delete it, or give the FineTuneJob another name"),
    );
}

/// The ConfigMap, if it is missing or does not hold the manifest; `false`, if nothing else may be created yet.
fn ensure_config_map(job: &Validated, seen: &Seen, draft: &mut Draft, plan: &mut Plan) -> bool {
    let what = || format!("a ConfigMap named {}", config_map::name(&job.name));
    match &seen.config_map {
        Child::Absent => {
            plan.create
                .push(NewChild::ConfigMap(Box::new(config_map::config_map(job))));
            true
        }
        // A ConfigMap that is being deleted has to go before its name is free again.
        Child::Ours { deleting: true, .. } => false,
        Child::Ours { is, .. } if config_map::holds(job, is) => true,
        Child::Ours { uid, .. } => {
            let name = config_map::name(&job.name);
            plan.events.push(NewEvent {
                warning: true,
                reason: "ManifestReplaced".to_owned(),
                action: "Create",
                note: format!(
                    "the ConfigMap {name} did not hold this FineTuneJob's manifest: somebody else wrote it; it is made anew"
                ),
                pod: None,
            });
            plan.delete.push(Doomed {
                kind: DoomedKind::ConfigMap,
                name,
                uid: uid.clone(),
            });
            false
        }
        Child::Leftover => {
            leftover(draft, &what());
            plan.next_check = Some(PROGRESS_INTERVAL);
            false
        }
        Child::Foreign { owner } => {
            name_clash(draft, &what(), owner);
            plan.next_check = Some(PATIENCE);
            false
        }
    }
}

#[cfg(test)]
mod child_tests;
#[cfg(test)]
mod convergence_tests;
#[cfg(test)]
mod lost_tests;
#[cfg(test)]
mod pod_tests;
#[cfg(test)]
mod publish_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod told_tests;
