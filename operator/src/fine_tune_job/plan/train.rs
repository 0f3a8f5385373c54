//! The stage that trains. Pure.

use finetune_crds::contract::{Outcome, OutcomeReason, RunPhase, Stage};
use finetune_crds::fine_tune_job::{JobPhase, ResultStatus};
use finetune_crds::names::condition;
use jiff::Timestamp;

use super::super::reasons::Cause;
use super::super::seen::{Child, JobEnd, JobSeen, PodSeen, Seen};
use super::super::status::Draft;
use super::super::validate::Validated;
use super::cause;
use super::outcome::{self, Places};
use super::{
    NewChild, PATIENCE, PROGRESS_INTERVAL, Plan, SAFETY_INTERVAL, attempts, doomed_job,
    ensure_config_map, give_up_lost, leftover, name_clash, retries, stage_job,
};
use crate::settings::OperatorSettings;

/// What is to be done between valid data and a result.
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
    let checkpoint = draft.status.checkpoint.as_ref().map(|known| known.step);
    let attempts = std::mem::take(&mut draft.status.attempts);
    draft.status.attempts = attempts::update(attempts, seen, checkpoint, now);
    let counted = retries::record(job, &seen.train, &mut draft);
    let may_create = ensure_config_map(job, seen, &mut draft, &mut plan);
    match &seen.train {
        Child::Absent => {
            draft.phase(JobPhase::Queued);
            if may_create {
                plan.create.push(NewChild::Job(Box::new(stage_job::job(
                    job,
                    settings,
                    Stage::Train,
                    retries::left(job, &draft),
                ))));
            }
        }
        Child::Leftover => {
            draft.phase(JobPhase::Queued);
            let name = stage_job::name(&job.name, Stage::Train);
            leftover(&mut draft, &format!("a Job named {name}"));
            plan.next_check = Some(PROGRESS_INTERVAL);
        }
        Child::Foreign { owner } => {
            draft.phase(JobPhase::Queued);
            let name = stage_job::name(&job.name, Stage::Train);
            name_clash(&mut draft, &format!("a Job named {name}"), owner);
            plan.next_check = Some(PATIENCE);
        }
        Child::Ours { deleting: true, .. } => draft.phase(JobPhase::Queued),
        Child::Ours { uid, is, .. } => {
            let pods: Vec<&PodSeen> = seen
                .pods
                .iter()
                .filter(|pod| pod.stage == Stage::Train)
                .collect();
            if let Some(outcome) = pods.iter().find_map(|pod| success(pod)) {
                match outcome::places(job, outcome) {
                    Ok(places) => {
                        record(job, &mut draft, outcome, places);
                        // What the watch tells next is our own write of the status.
                        plan.next_check = Some(PROGRESS_INTERVAL);
                    }
                    Err(cause) => {
                        draft.failed(&cause.reason, &cause.message);
                        plan.next_check = None;
                    }
                }
            } else if let Some(cause) = failure(job, is, &pods, &draft) {
                draft.failed(&cause.reason, &cause.message);
                plan.next_check = None;
            } else if let Some(pod) = pods.iter().find(|pod| attempts::is_silent(pod)) {
                // What it did may lie in object storage all the same: a new one finds the outcome there, prints it and ends.
                draft.phase(JobPhase::Publishing);
                draft.condition(
                    condition::PODS_RUNNING,
                    "False",
                    attempts::SILENT,
                    &format!(
                        "the pod {} ended well and its outcome cannot be read; another one looks for it in {}",
                        pod.name, job.job_uri
                    ),
                );
                plan.delete.push(doomed_job(&job.name, Stage::Train, uid));
            } else if is.end == Some(JobEnd::Complete) {
                // The pod went before its outcome was read. A new one prints it and ends.
                draft.phase(JobPhase::Publishing);
                plan.delete.push(doomed_job(&job.name, Stage::Train, uid));
            } else if let Some(pod) = cause::lost(&pods, now) {
                draft.phase(JobPhase::Queued);
                draft.forget(condition::PROGRESS_REPORTED);
                let doomed = give_up_lost(job, Stage::Train, uid, pod, counted, &mut draft, now);
                plan.delete.extend(doomed);
            } else if let Some(cause) =
                cause::why_not_running(job, &settings.trainer_image, is, &pods, seen, now)
            {
                draft.phase(JobPhase::Queued);
                draft.condition(
                    condition::PODS_RUNNING,
                    "False",
                    &cause.reason,
                    &cause.message,
                );
                draft.forget(condition::PROGRESS_REPORTED);
            } else {
                running(&mut draft, seen);
                plan.next_check = Some(PROGRESS_INTERVAL);
            }
        }
    }
    plan.status = draft.status;
    plan
}

/// The outcome of a pod that trained and published.
fn success(pod: &PodSeen) -> Option<&Outcome> {
    pod.terminated()?
        .outcome
        .as_ref()
        .filter(|outcome| outcome.reason == OutcomeReason::Succeeded)
}

fn failure(
    job: &Validated,
    stage_job: &JobSeen,
    pods: &[&PodSeen],
    draft: &Draft,
) -> Option<Cause> {
    if let Some(attempts::NewestCheckpoint(step)) =
        attempts::out_of_memory_twice(&draft.status.attempts)
    {
        let at = step.map_or_else(
            || "before the first checkpoint".to_owned(),
            |step| format!("after the checkpoint of step {step}"),
        );
        let last = pods
            .iter()
            .rev()
            .find_map(|pod| Some((*pod, pod.terminated()?)));
        let detail = last.map_or_else(String::new, |(pod, terminated)| {
            format!(": {}", cause::end_of_pod(job, pod, terminated).message)
        });
        return Some(Cause::new(
            "OutOfMemory",
            format!("memory ran out twice {at}{detail}"),
        ));
    }
    if let Some(cause) = cause::end_of_job(job, stage_job, pods) {
        return Some(cause);
    }
    // A pod that ended well without saying so is asked again once; a second one would be replaced for ever. One that speaks
    // for another job is not asked at all.
    let asked_before = attempts::silent(&draft.status.attempts) > 1;
    pods.iter().find_map(|pod| {
        let terminated = pod.terminated()?;
        let told = terminated.exit_code == 0 && terminated.stranger.is_some();
        (told || attempts::is_silent(pod) && asked_before)
            .then(|| cause::end_of_pod(job, pod, terminated))
    })
}

fn running(draft: &mut Draft, seen: &Seen) {
    draft.condition(
        condition::PODS_RUNNING,
        "True",
        "Running",
        "The train pod runs.",
    );
    match &seen.progress {
        Some(Ok(progress)) => {
            draft.phase(match progress.phase {
                RunPhase::Loading | RunPhase::Training => JobPhase::Training,
                RunPhase::Evaluating => JobPhase::Evaluating,
                RunPhase::Publishing => JobPhase::Publishing,
            });
            draft.progress(progress);
            draft.condition(
                condition::PROGRESS_REPORTED,
                "True",
                "Reported",
                "The trainer reports its progress.",
            );
        }
        unreported => {
            // A run that has reported once keeps its phase while it is out of sight.
            let known = draft.status.phase.filter(|phase| {
                matches!(
                    phase,
                    JobPhase::Training | JobPhase::Evaluating | JobPhase::Publishing
                )
            });
            draft.phase(known.unwrap_or(JobPhase::Training));
            let why = match unreported {
                Some(Err(why)) => why.as_str(),
                _ => "has no address yet",
            };
            let message = format!(
                "the trainer's /progress {why}; the run goes on, only its progress is not known"
            );
            draft.condition(
                condition::PROGRESS_REPORTED,
                "False",
                "Unreachable",
                &message,
            );
        }
    }
}

/// Takes over what came out. It is handed to the Adapter once this is stored.
fn record(job: &Validated, draft: &mut Draft, outcome: &Outcome, places: Places) {
    let Places {
        adapter,
        model,
        gguf_adapter,
    } = places;
    let Some((_, uri)) = adapter.as_ref().or(model.as_ref()) else {
        draft.failed(
            "NoResult",
            "the trainer says that it succeeded but names neither an adapter nor a model",
        );
        return;
    };
    draft.phase(JobPhase::Publishing);
    if let Some(progress) = &outcome.progress {
        draft.progress(progress);
    }
    draft.progress_is_complete();
    if let Some(plan) = &outcome.plan {
        draft.status.plan = Some(plan.clone());
    }
    if let Some(digest) = outcome
        .base_model
        .as_ref()
        .and_then(|base| base.digest.clone())
    {
        draft.status.base_model.get_or_insert_default().digest = Some(digest);
    }
    draft.status.result = Some(ResultStatus {
        uri: uri.clone(),
        merged_model_uri: adapter
            .as_ref()
            .and(model.as_ref())
            .map(|(_, uri)| uri.clone()),
        gguf_adapter_uri: gguf_adapter,
        adapter_name: adapter.as_ref().and(job.adapter.clone()),
        adapter_digest: adapter.map(|(digest, _)| digest),
        model_digest: model.map(|(digest, _)| digest),
        job_uri: job.job_uri.clone(),
    });
    draft.forget(condition::PODS_RUNNING);
    draft.forget(condition::PROGRESS_REPORTED);
}
