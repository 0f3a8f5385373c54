//! Why a pod does not run, or how it ended, in words that a person can act on. Pure.

use finetune_crds::contract::{ExitCode, OutcomeReason};
use jiff::Timestamp;

use super::super::reasons::{Cause, ENDING, STARTING, SUSPENDED};
use super::super::seen::{ContainerSeen, JobEnd, JobSeen, PodSeen, Seen, Terminated};
use super::super::validate::Validated;
use super::{retries, unschedulable};

/// A Job without a pod for this long has a trouble of its own.
const POD_DUE_SECONDS: i64 = 10;
/// A pod that should have ended this long ago runs on a node that no longer answers: a kubelet that lives kills it in time.
const LOST_AFTER_SECONDS: i64 = 300;
/// Within this time a status is stored, if the API server stores it at all.
const STORED_WITHIN_SECONDS: i64 = 60;

/// The exit code of a program that does not know its arguments.
const USAGE: i32 = 2;

/// Why the stage's pod does not run; `None` if it does.
pub fn why_not_running(
    job: &Validated,
    image: &str,
    stage_job: &JobSeen,
    pods: &[&PodSeen],
    seen: &Seen,
    now: Timestamp,
) -> Option<Cause> {
    if stage_job.suspended {
        return Some(Cause::new(
            SUSPENDED,
            "The Job is suspended: it waits for its queue to admit it.",
        ));
    }
    let Some(pod) = pods.last() else {
        return Some(no_pod(stage_job, seen, now));
    };
    match &pod.container {
        ContainerSeen::Running { .. } => overdue_end(pod, now),
        ContainerSeen::Terminated(terminated) => {
            Some(between_pods(job, stage_job, pods, pod, terminated))
        }
        ContainerSeen::Waiting { reason, message } => Some(waiting(image, pod, reason, message)),
        ContainerSeen::Unknown => Some(match (&pod.unschedulable, &pod.disruption) {
            (Some(said), _) => unschedulable::cause(job, pod, said),
            (None, Some(disruption)) => Cause::new(
                "Disrupted",
                format!("the pod {} was ended from outside: {disruption}", pod.name),
            ),
            (None, None) => Cause::new(STARTING, format!("The pod {} is on its way.", pod.name)),
        }),
    }
}

fn no_pod(stage_job: &JobSeen, seen: &Seen, now: Timestamp) -> Cause {
    if let Some(refusal) = &seen.pod_refusal {
        return Cause::new(
            "PodRefused",
            format!("Kubernetes cannot create the pod: {refusal}"),
        );
    }
    if is_pod_overdue(stage_job, now) {
        return Cause::new(
            "NoPod",
            "Kubernetes has created no pod for the Job yet: is the Job controller running? See `kubectl describe job`",
        );
    }
    Cause::new(STARTING, "The Job waits for its pod.")
}

/// Whether a Job without a pod should have one by now. The Job controller's own start counts: a Job may have waited in a
/// queue for days.
pub fn is_pod_overdue(stage_job: &JobSeen, now: Timestamp) -> bool {
    stage_job
        .started
        .or(stage_job.created)
        .is_some_and(|since| now.as_second() - since.as_second() >= POD_DUE_SECONDS)
}

/// A pod that was told to end, and whose time for it is over.
fn overdue_end(pod: &PodSeen, now: Timestamp) -> Option<Cause> {
    let due = pod.end_due.filter(|due| *due < now)?;
    Some(Cause::new(
        "Terminating",
        format!(
            "the pod {} should have ended at {due} and has not: {} may be gone. {} minutes after that it is given up, and another \
             pod goes on from the newest checkpoint",
            pod.name,
            node_of(pod),
            LOST_AFTER_SECONDS / 60
        ),
    ))
}

/// The pod that is lost with its node, if one is: it was told to end, and nobody there has ended it for long.
pub fn lost<'a>(pods: &[&'a PodSeen], now: Timestamp) -> Option<&'a PodSeen> {
    pods.iter().copied().find(|pod| {
        let overdue = pod
            .end_due
            .is_some_and(|due| now.as_second() - due.as_second() >= LOST_AFTER_SECONDS);
        overdue && !pod.failed && pod.terminated().is_none()
    })
}

/// Whether a lost pod has been so for longer than it takes to store something first.
pub fn is_long_lost(pod: &PodSeen, now: Timestamp) -> bool {
    pod.end_due.is_some_and(|due| {
        now.as_second() - due.as_second() >= LOST_AFTER_SECONDS + STORED_WITHIN_SECONDS
    })
}

/// What is said of a pod that is lost with its node.
pub fn lost_pod(pod: &PodSeen) -> Cause {
    Cause::new(
        "NodeLost",
        format!(
            "the pod {} has not ended {} minutes after it should have: {} does not answer. It is given up and removed; another \
             pod goes on from the newest checkpoint",
            pod.name,
            LOST_AFTER_SECONDS / 60,
            node_of(pod)
        ),
    )
}

fn node_of(pod: &PodSeen) -> String {
    pod.node
        .as_ref()
        .map_or_else(|| "its node".to_owned(), |node| format!("its node {node}"))
}

fn waiting(image: &str, pod: &PodSeen, reason: &str, message: &str) -> Cause {
    let detail = if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    };
    match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => Cause::new(
            reason,
            format!(
                "the image {image} cannot be had{detail}; check `trainerImage` of the chart (the controller's --trainer-image) and the node's access to it"
            ),
        ),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Cause::new(
            reason,
            format!(
                "the container of pod {} cannot be made{detail}; see `kubectl describe pod {}`",
                pod.name, pod.name
            ),
        ),
        "" | "ContainerCreating" | "PodInitializing" => {
            Cause::new(STARTING, format!("The pod {} is on its way.", pod.name))
        }
        other => Cause::new(
            other,
            format!("the container of pod {} waits{detail}", pod.name),
        ),
    }
}

/// A pod has ended and the Job has not: another one follows, unless the Job just has not got round to its own end.
fn between_pods(
    job: &Validated,
    stage_job: &JobSeen,
    pods: &[&PodSeen],
    pod: &PodSeen,
    terminated: &Terminated,
) -> Cause {
    let is_final = |code| {
        ExitCode::FINAL
            .iter()
            .any(|last| i32::from(last.code()) == code)
    };
    let counts = |pod: &PodSeen| {
        let preempted = i32::from(ExitCode::Preempted.code());
        pod.disruption.is_none()
            && pod
                .terminated()
                .is_some_and(|t| t.exit_code != 0 && t.exit_code != preempted)
    };
    let seen = i32::try_from(pods.iter().filter(|pod| counts(pod)).count()).unwrap_or(i32::MAX);
    // The Job's own count lags behind its pods, and pods may have been cleared away.
    let counted = JobSeen {
        failed: stage_job.failed.max(seen),
        ..stage_job.clone()
    };
    let failures = retries::failures(job, &counted);
    let retries = job.spec.max_retries;
    if terminated.exit_code == 0 || is_final(terminated.exit_code) || failures > retries {
        return Cause::new(
            ENDING,
            "The last pod has ended; the Job is about to end, too.",
        );
    }
    let cause = end_of_pod(job, pod, terminated);
    let next = if counts(pod) {
        format!("retry {failures} of {retries} follows")
    } else {
        "another pod follows, which costs no retry".to_owned()
    };
    Cause::new(cause.reason, format!("{}; {next}", cause.message))
}

/// How a pod ended.
pub fn end_of_pod(job: &Validated, pod: &PodSeen, terminated: &Terminated) -> Cause {
    if pod.is_out_of_memory() {
        let limit = job
            .spec
            .placement
            .resources
            .limits
            .get("memory")
            .map_or_else(
                || "the node's".to_owned(),
                |limit| format!("its limit of {limit}"),
            );
        return Cause::new(
            "OOMKilled",
            format!(
                "the pod {} was killed for using more memory than {limit}: raise spec.placement.resources.limits.memory, \
                 or lower spec.training.microBatchSize or spec.dataset.maxSequenceLength",
                pod.name
            ),
        );
    }
    if let Some(outcome) = &terminated.outcome {
        let message = if outcome.message.is_empty() {
            format!(
                "the trainer in pod {} ended with {}",
                pod.name,
                outcome.reason.as_str()
            )
        } else {
            outcome.message.clone()
        };
        return Cause::new(outcome.reason.as_str(), message);
    }
    if let Some(disruption) = &pod.disruption {
        return Cause::new(
            "Disrupted",
            format!("the pod {} was ended from outside: {disruption}", pod.name),
        );
    }
    if let Some(stranger) = &terminated.stranger {
        return Cause::new(
            "OutcomeMismatch",
            format!(
                "the pod {} left {stranger}; it is not believed. See who may write pods and Jobs of this namespace",
                pod.name
            ),
        );
    }
    if terminated.exit_code == USAGE && terminated.message.contains("unexpected argument") {
        return Cause::new(
            "TrainerOlder",
            format!(
                "the trainer image is older than this operator, whose arguments it does not know ({}): give the controller's \
                 --trainer-image the version {}",
                terminated.message.trim(),
                env!("CARGO_PKG_VERSION")
            ),
        );
    }
    let said = terminated.message.trim();
    let said = if said.is_empty() {
        format!("see `kubectl logs {}`", pod.name)
    } else {
        format!("its last words: {said}")
    };
    if terminated.exit_code == 0 {
        return Cause::new(
            "NoOutcome",
            format!(
                "the pod {} ended well but left no outcome, so its image is not the trainer of this operator; {said}",
                pod.name
            ),
        );
    }
    Cause::new(
        "Error",
        format!(
            "the trainer in pod {} ended with exit code {}; {said}",
            pod.name, terminated.exit_code
        ),
    )
}

/// How a Job ended that gave up: its own reason first, since a deadline also makes the trainer say "preempted".
pub fn end_of_job(job: &Validated, stage_job: &JobSeen, pods: &[&PodSeen]) -> Option<Cause> {
    let Some(JobEnd::Failed { reason, message }) = &stage_job.end else {
        return None;
    };
    if reason == "DeadlineExceeded" {
        return Some(Cause::new(
            reason.clone(),
            "the Job ran longer than it may and was stopped; the checkpoints are kept",
        ));
    }
    let last = pods.iter().rev().find_map(|pod| {
        let terminated = pod.terminated()?;
        let speaks = terminated
            .outcome
            .as_ref()
            .is_none_or(|outcome| outcome.reason != OutcomeReason::Preempted);
        (terminated.exit_code != 0 && speaks).then(|| end_of_pod(job, pod, terminated))
    });
    let cause = last.unwrap_or_else(|| Cause::new(reason.clone(), message.clone()));
    if reason == "BackoffLimitExceeded" {
        return Some(Cause::new(
            cause.reason,
            format!(
                "{}; no retry is left of {}",
                cause.message, job.spec.max_retries
            ),
        ));
    }
    Some(cause)
}
