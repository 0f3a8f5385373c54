//! The stage that trains. Pure.

use finetune_crds::contract::{Outcome, OutcomeReason, Published, RunPhase, Stage, layout};
use finetune_crds::fine_tune_job::{JobPhase, ResultStatus};
use finetune_crds::names::condition;
use jiff::Timestamp;

use super::super::seen::{Child, JobEnd, JobSeen, PodSeen, Seen};
use super::super::status::Draft;
use super::super::validate::Validated;
use super::cause::{self, Cause};
use super::{
    DoomedJob, NewChild, PATIENCE, PROGRESS_INTERVAL, Plan, SAFETY_INTERVAL, attempts,
    ensure_config_map, name_clash, stage_job,
};
use crate::runtime::Settings;

/// What is to be done between valid data and a result.
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
    draft.status.attempts = attempts::update(std::mem::take(&mut draft.status.attempts), seen, now);
    let may_create = ensure_config_map(job, seen, &mut draft, &mut plan.create);
    match &seen.train {
        Child::Absent => {
            draft.phase(JobPhase::Queued);
            if may_create {
                plan.create.push(NewChild::Job(Box::new(stage_job::job(
                    job,
                    settings,
                    Stage::Train,
                ))));
            } else {
                plan.next_check = Some(PATIENCE);
            }
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
                record(job, &mut draft, outcome);
                // What the watch tells next is our own write of the status.
                plan.next_check = Some(PROGRESS_INTERVAL);
            } else if let Some(cause) = failure(job, is, &pods, &draft) {
                draft.failed(&cause.reason, &cause.message);
                plan.next_check = None;
            } else if is.end == Some(JobEnd::Complete) {
                // The pod went before its outcome was read. A new one prints it and ends.
                draft.phase(JobPhase::Publishing);
                plan.delete.push(DoomedJob {
                    name: stage_job::name(&job.name, Stage::Train),
                    uid: uid.clone(),
                });
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
    if let Some(step) = attempts::out_of_memory_twice(&draft.status.attempts) {
        let at = step.map_or_else(
            || "before the first step".to_owned(),
            |step| format!("after step {step}"),
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
    // A pod that ended well without saying so would be replaced for ever.
    pods.iter().find_map(|pod| {
        let terminated = pod.terminated()?;
        let silent = terminated.exit_code == 0 && terminated.outcome.is_none();
        silent.then(|| cause::end_of_pod(job, pod, terminated))
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
///
/// The trainer says digests. Where they lie is not its word but follows from the manifest.
fn record(job: &Validated, draft: &mut Draft, outcome: &Outcome) {
    let digest = |published: &Option<Published>| {
        let published = published.as_ref();
        published.map(|published| published.digest.clone())
    };
    let (adapter_digest, model_digest) = (digest(&outcome.adapter), digest(&outcome.model));
    let output = job.spec.output.as_ref();
    let output_uri = output.and_then(|output| output.uri.as_deref());
    let output_uri = output_uri.unwrap_or_default();
    let adapter = job.adapter.as_ref().zip(adapter_digest.as_ref());
    let adapter_uri = adapter.map(|(name, digest)| {
        let folder = layout::adapter_folder(output_uri, &job.namespace, name);
        layout::published_folder(&folder, digest)
    });
    let model_uri = model_digest.as_ref().map(|digest| {
        let folder = layout::model_folder(output_uri, &job.namespace, &job.name);
        layout::published_folder(&folder, digest)
    });
    let Some(uri) = adapter_uri.as_ref().or(model_uri.as_ref()) else {
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
    let wants_gguf = output.is_some_and(|output| output.gguf_adapter);
    let gguf_folder = adapter_uri.as_ref().filter(|_| wants_gguf);
    draft.status.result = Some(ResultStatus {
        adapter_digest,
        model_digest,
        uri: uri.clone(),
        merged_model_uri: adapter_uri.as_ref().and(model_uri.clone()),
        gguf_adapter_uri: gguf_folder.map(|folder| format!("{folder}{}", layout::ADAPTER_GGUF)),
        adapter_name: adapter_uri.as_ref().and(job.adapter.clone()),
        job_uri: job.job_uri.clone(),
    });
    draft.forget(condition::PODS_RUNNING);
    draft.forget(condition::PROGRESS_REPORTED);
}
