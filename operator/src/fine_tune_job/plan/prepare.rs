//! The stage without a GPU: is the data valid, and what would be trained? Pure.

use finetune_crds::contract::{Outcome, OutcomeReason, Stage};
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::condition;
use jiff::Timestamp;

use super::super::reasons::Cause;
use super::super::seen::{Child, JobEnd, JobSeen, PodSeen, Seen};
use super::super::status::Draft;
use super::super::validate::Validated;
use super::cause;
use super::{
    NewChild, PATIENCE, PROGRESS_INTERVAL, Plan, SAFETY_INTERVAL, doomed_job, ensure_config_map,
    give_up_lost, leftover, name_clash, outcome, retries, stage_job, warnings,
};
use crate::settings::OperatorSettings;

/// What is to be done until the data is known to be valid.
pub(super) fn plan(
    job: &Validated,
    seen: &Seen,
    settings: &OperatorSettings,
    mut draft: Draft,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan {
        next_check: Some(SAFETY_INTERVAL),
        ..Plan::default()
    };
    draft.phase(JobPhase::Preparing);
    let counted = retries::record(job, &seen.prepare, &mut draft);
    let may_create = ensure_config_map(job, seen, &mut draft, &mut plan);
    match &seen.prepare {
        Child::Absent if may_create => {
            plan.create.push(NewChild::Job(Box::new(stage_job::job(
                job,
                settings,
                Stage::Prepare,
                retries::left(job, &draft),
            ))));
            draft.condition(
                condition::DATASET_VALID,
                "Unknown",
                "Preparing",
                "The data is being checked.",
            );
        }
        Child::Absent | Child::Ours { deleting: true, .. } => {}
        Child::Leftover => {
            let name = stage_job::name(&job.name, Stage::Prepare);
            leftover(&mut draft, &format!("a Job named {name}"));
            plan.next_check = Some(PROGRESS_INTERVAL);
        }
        Child::Foreign { owner } => {
            let name = stage_job::name(&job.name, Stage::Prepare);
            name_clash(&mut draft, &format!("a Job named {name}"), owner);
            plan.next_check = Some(PATIENCE);
        }
        Child::Ours { uid, is, .. } => {
            let pods: Vec<&PodSeen> = seen
                .pods
                .iter()
                .filter(|pod| pod.stage == Stage::Prepare)
                .collect();
            match look(job, settings, is, &pods, seen, now) {
                Look::Prepared(outcome) => {
                    record(&mut draft, outcome, settings);
                    plan.events.extend(warnings::event(outcome, settings));
                }
                Look::Failed(cause) => {
                    let valid = if refuses_data(&cause, &pods) {
                        "False"
                    } else {
                        "Unknown"
                    };
                    draft.condition(
                        condition::DATASET_VALID,
                        valid,
                        &cause.reason,
                        &cause.message,
                    );
                    draft.failed(&cause.reason, &cause.message);
                    plan.next_check = None;
                }
                Look::Lost => plan.delete.push(doomed_job(&job.name, Stage::Prepare, uid)),
                Look::NodeLost(pod) => {
                    let doomed =
                        give_up_lost(job, Stage::Prepare, uid, pod, counted, &mut draft, now);
                    plan.delete.extend(doomed);
                }
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
    Prepared(&'a Outcome),
    Failed(Cause),
    /// It has ended well, and the pod with the outcome is gone: again.
    Lost,
    /// The pod's node no longer answers.
    NodeLost(&'a PodSeen),
    Running,
    Waiting(Cause),
}

fn look<'a>(
    job: &Validated,
    settings: &OperatorSettings,
    stage_job: &JobSeen,
    pods: &[&'a PodSeen],
    seen: &Seen,
    now: Timestamp,
) -> Look<'a> {
    if let Some(outcome) = pods.iter().find_map(|pod| prepared(pod)) {
        return match outcome::places(job, outcome) {
            Ok(_) => Look::Prepared(outcome),
            Err(cause) => Look::Failed(cause),
        };
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
    if let Some(pod) = cause::lost(pods, now) {
        return Look::NodeLost(pod);
    }
    match cause::why_not_running(job, &settings.trainer_image, stage_job, pods, seen, now) {
        Some(cause) => Look::Waiting(cause),
        None => Look::Running,
    }
}

/// Whether the stage failed because of the data or of what it is read with: manifest and base. Of any other end, such as one for
/// want of memory or of a place for the output, nothing follows for the data.
fn refuses_data(cause: &Cause, pods: &[&PodSeen]) -> bool {
    let mut outcomes = pods
        .iter()
        .rev()
        .filter_map(|pod| pod.terminated()?.outcome.as_ref());
    let told = outcomes.find(|outcome| outcome.reason.as_str() == cause.reason);
    told.is_some_and(|outcome| {
        let field = outcome.field.as_deref().unwrap_or_default();
        let at_fault = [OutcomeReason::InvalidInput, OutcomeReason::NotFound];
        at_fault.contains(&outcome.reason) && !field.starts_with("spec.output.")
    })
}

/// The outcome of a pod that found the data to be valid.
fn prepared(pod: &PodSeen) -> Option<&Outcome> {
    pod.terminated()?
        .outcome
        .as_ref()
        .filter(|outcome| outcome.reason == OutcomeReason::Succeeded)
}

/// Takes over what the stage found out. Training begins once this is stored.
fn record(draft: &mut Draft, outcome: &Outcome, settings: &OperatorSettings) {
    draft.status.dataset.clone_from(&outcome.dataset);
    draft.status.base_model.clone_from(&outcome.base_model);
    draft.status.plan.clone_from(&outcome.plan);
    let mut message = outcome.dataset.as_ref().map_or_else(
        || "The data is valid.".to_owned(),
        |dataset| {
            format!(
                "{} rows to train on and {} to validate with, {} tokens, {} of them with loss.",
                dataset.rows, dataset.validation_rows, dataset.tokens, dataset.trainable_tokens
            )
        },
    );
    if let Some(warnings) = warnings::listed(outcome, settings) {
        message = format!("{message} Warnings: {warnings}");
    }
    draft.condition(condition::DATASET_VALID, "True", "Prepared", &message);
    draft.forget(condition::PODS_RUNNING);
    retries::begin_stage(draft);
}
