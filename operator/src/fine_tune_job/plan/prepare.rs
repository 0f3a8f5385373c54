//! The stage without a GPU: is the data valid, and what would be trained? Pure.

use finetune_crds::contract::{OutcomeReason, Stage};
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::condition;
use jiff::Timestamp;

use super::super::seen::{Child, JobEnd, JobSeen, PodSeen, Seen};
use super::super::status::Draft;
use super::super::validate::Validated;
use super::cause::{self, Cause};
use super::{
    DoomedJob, NewChild, PATIENCE, Plan, SAFETY_INTERVAL, ensure_config_map, name_clash, stage_job,
};
use crate::runtime::Settings;

/// What is to be done until the data is known to be valid.
pub(super) fn plan(
    job: &Validated,
    seen: &Seen,
    settings: &Settings,
    mut draft: Draft,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan {
        next_check: Some(SAFETY_INTERVAL),
        ..Plan::default()
    };
    draft.phase(JobPhase::Preparing);
    let may_create = ensure_config_map(job, seen, &mut draft, &mut plan.create);
    match &seen.prepare {
        Child::Absent if may_create => {
            plan.create.push(NewChild::Job(Box::new(stage_job::job(
                job,
                settings,
                Stage::Prepare,
            ))));
            draft.condition(
                condition::DATASET_VALID,
                "Unknown",
                "Preparing",
                "The data is being checked.",
            );
        }
        Child::Absent => plan.next_check = Some(PATIENCE),
        Child::Foreign { owner } => {
            let name = stage_job::name(&job.name, Stage::Prepare);
            name_clash(&mut draft, &format!("a Job named {name}"), owner);
            plan.next_check = Some(PATIENCE);
        }
        Child::Ours { deleting: true, .. } => {}
        Child::Ours { uid, is, .. } => {
            let pods: Vec<&PodSeen> = seen
                .pods
                .iter()
                .filter(|pod| pod.stage == Stage::Prepare)
                .collect();
            match look(job, settings, is, &pods, seen, now) {
                Look::Prepared(pod) => record(&mut draft, pod),
                Look::Failed(cause) => {
                    draft.condition(
                        condition::DATASET_VALID,
                        "False",
                        &cause.reason,
                        &cause.message,
                    );
                    draft.failed(&cause.reason, &cause.message);
                    plan.next_check = None;
                }
                Look::Lost => plan.delete.push(DoomedJob {
                    name: stage_job::name(&job.name, Stage::Prepare),
                    uid: uid.clone(),
                }),
                Look::Running => {
                    draft.condition(
                        condition::DATASET_VALID,
                        "Unknown",
                        "Preparing",
                        "The data is being checked.",
                    );
                    draft.condition(
                        condition::PODS_RUNNING,
                        "True",
                        "Running",
                        "The prepare pod runs.",
                    );
                }
                Look::Waiting(cause) => {
                    draft.condition(
                        condition::DATASET_VALID,
                        "Unknown",
                        "Preparing",
                        "The data is yet to be checked.",
                    );
                    draft.condition(
                        condition::PODS_RUNNING,
                        "False",
                        &cause.reason,
                        &cause.message,
                    );
                }
            }
        }
    }
    plan.status = draft.status;
    plan
}

/// What the stage's pods tell.
enum Look<'a> {
    Prepared(&'a PodSeen),
    Failed(Cause),
    /// It has ended well, and the pod with the outcome is gone: again.
    Lost,
    Running,
    Waiting(Cause),
}

fn look<'a>(
    job: &Validated,
    settings: &Settings,
    stage_job: &JobSeen,
    pods: &[&'a PodSeen],
    seen: &Seen,
    now: Timestamp,
) -> Look<'a> {
    let ended = |pod: &PodSeen, reason| {
        pod.terminated()
            .and_then(|terminated| terminated.outcome.as_ref())
            .is_some_and(|outcome| outcome.reason == reason)
    };
    if let Some(pod) = pods.iter().find(|pod| ended(pod, OutcomeReason::Succeeded)) {
        return Look::Prepared(pod);
    }
    if pods.iter().filter(|pod| pod.is_out_of_memory()).count() >= 2
        && let Some((pod, terminated)) = pods.last().and_then(|pod| Some((pod, pod.terminated()?)))
    {
        return Look::Failed(cause::end_of_pod(job, pod, terminated));
    }
    if let Some(cause) = cause::end_of_job(job, stage_job, pods) {
        return Look::Failed(cause);
    }
    let silent = pods.iter().find_map(|pod| {
        pod.terminated()
            .filter(|t| t.exit_code == 0)
            .map(|terminated| (pod, terminated))
    });
    if let Some((pod, terminated)) = silent {
        return Look::Failed(cause::end_of_pod(job, pod, terminated));
    }
    if stage_job.end == Some(JobEnd::Complete) {
        return Look::Lost;
    }
    match cause::why_not_running(job, &settings.trainer_image, stage_job, pods, seen, now) {
        Some(cause) => Look::Waiting(cause),
        None => Look::Running,
    }
}

/// Takes over what the stage found out. Training begins once this is stored.
fn record(draft: &mut Draft, pod: &PodSeen) {
    let Some(outcome) = pod
        .terminated()
        .and_then(|terminated| terminated.outcome.as_ref())
    else {
        return;
    };
    draft.status.dataset.clone_from(&outcome.dataset);
    draft.status.base_model.clone_from(&outcome.base_model);
    draft.status.plan.clone_from(&outcome.plan);
    let message = outcome.dataset.as_ref().map_or_else(
        || "The data is valid.".to_owned(),
        |dataset| {
            format!(
                "{} rows to train on and {} to validate with, {} tokens, {} of them with loss.",
                dataset.rows, dataset.validation_rows, dataset.tokens, dataset.trainable_tokens
            )
        },
    );
    draft.condition(condition::DATASET_VALID, "True", "Prepared", &message);
    draft.forget(condition::PODS_RUNNING);
}
