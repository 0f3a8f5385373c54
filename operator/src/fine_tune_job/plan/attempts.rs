//! The list of pods that trained: kept in the status, because a pod that is gone tells nothing. Pure.

use finetune_crds::contract::Stage;
use finetune_crds::fine_tune_job::Attempt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::reasons::LOST;
use super::super::seen::{ContainerSeen, PodSeen, Seen};

/// How many are kept.
const KEPT: usize = 10;
/// The reason of an attempt that ended well and left no outcome.
pub const SILENT: &str = "NoOutcome";
/// The kubelet's reason for a container that used more memory than it may.
const OUT_OF_MEMORY: &str = "OOMKilled";

/// The list with what is seen of the train pods now. `checkpoint` is the step of the newest checkpoint that was told of.
pub fn update(
    mut attempts: Vec<Attempt>,
    seen: &Seen,
    checkpoint: Option<i64>,
    now: Timestamp,
) -> Vec<Attempt> {
    for pod in seen.pods.iter().filter(|pod| pod.stage == Stage::Train) {
        let known = attempts.iter().position(|attempt| attempt.pod == pod.name);
        let before = known.map(|index| &attempts[index]);
        let Some(mut fresh) = attempt(pod, seen, before) else {
            continue;
        };
        // Once it has ended, what a later one saves is not its doing.
        fresh.checkpoint_step = match before {
            Some(before) if before.reason.is_some() => before.checkpoint_step,
            _ => checkpoint_of(pod, seen).max(checkpoint),
        };
        match known {
            Some(index) => attempts[index] = fresh,
            None => attempts.push(fresh),
        }
    }
    for attempt in &mut attempts {
        let gone = !seen.pods.iter().any(|pod| pod.name == attempt.pod);
        if gone && attempt.reason.is_none() {
            attempt.reason = Some(LOST.to_owned());
            attempt.end_time = Some(Time(now));
        }
    }
    attempts.drain(..attempts.len().saturating_sub(KEPT));
    attempts
}

/// The newest checkpoint that a pod itself tells of.
fn checkpoint_of(pod: &PodSeen, seen: &Seen) -> Option<i64> {
    let said = pod
        .terminated()
        .and_then(|terminated| terminated.outcome.as_ref()?.progress.as_ref());
    let reported = match &seen.progress {
        Some(Ok(progress)) if pod.is_running() => Some(progress),
        _ => None,
    };
    i64::try_from(said.or(reported)?.checkpoint_step?).ok()
}

/// Whether a pod ended well and said nothing of it.
pub fn is_silent(pod: &PodSeen) -> bool {
    pod.terminated().is_some_and(|terminated| {
        terminated.exit_code == 0 && terminated.outcome.is_none() && terminated.stranger.is_none()
    })
}

/// How many pods ended well and said nothing of it.
pub fn silent(attempts: &[Attempt]) -> usize {
    attempts
        .iter()
        .filter(|attempt| attempt.reason.as_deref() == Some(SILENT))
        .count()
}

/// The step of the newest checkpoint when a pod ended; `None` where there was none yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NewestCheckpoint(pub Option<i64>);

/// The newest checkpoint at which memory has run out twice, if so: a third pod would get no further. Steps are not compared:
/// they are read every few seconds, so the last one before the end is a matter of luck.
pub fn out_of_memory_twice(attempts: &[Attempt]) -> Option<NewestCheckpoint> {
    let mut steps = attempts
        .iter()
        .filter(|attempt| attempt.reason.as_deref() == Some(OUT_OF_MEMORY))
        .map(|attempt| attempt.checkpoint_step);
    let mut before = Vec::new();
    let twice = steps.find(|step| {
        let twice = before.contains(step);
        before.push(*step);
        twice
    });
    twice.map(NewestCheckpoint)
}

/// A pod as an attempt; `None` before its container has started.
fn attempt(pod: &PodSeen, seen: &Seen, known: Option<&Attempt>) -> Option<Attempt> {
    let known_step = known.and_then(|attempt| attempt.step);
    match &pod.container {
        ContainerSeen::Running { started } => {
            let reported = match &seen.progress {
                Some(Ok(progress)) => i64::try_from(progress.step).ok(),
                _ => None,
            };
            Some(Attempt {
                pod: pod.name.clone(),
                reason: None,
                step: reported.or(known_step),
                checkpoint_step: None,
                start_time: started.map(Time),
                end_time: None,
            })
        }
        ContainerSeen::Terminated(terminated) => {
            let outcome = terminated.outcome.as_ref();
            let reason = if pod.is_out_of_memory() {
                OUT_OF_MEMORY.to_owned()
            } else if let Some(outcome) = outcome {
                outcome.reason.as_str().to_owned()
            } else if pod.disruption.is_some() {
                "Disrupted".to_owned()
            } else if is_silent(pod) {
                SILENT.to_owned()
            } else {
                format!("ExitCode{}", terminated.exit_code)
            };
            let last_step = outcome
                .and_then(|outcome| outcome.progress.as_ref())
                .and_then(|progress| i64::try_from(progress.step).ok());
            Some(Attempt {
                pod: pod.name.clone(),
                reason: Some(reason),
                step: last_step.or(known_step),
                checkpoint_step: None,
                start_time: terminated.started.map(Time),
                end_time: terminated.finished.map(Time),
            })
        }
        ContainerSeen::Waiting { .. } | ContainerSeen::Unknown => {
            // A pod that was ended from outside may never tell how its container ended.
            let ended = pod.failed && known.is_some_and(|attempt| attempt.reason.is_none());
            ended.then(|| Attempt {
                reason: Some("Disrupted".to_owned()),
                ..known.cloned().unwrap_or_default()
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use finetune_crds::fine_tune_job::JobPhase;
    use finetune_crds::names::condition;

    use super::super::super::fixtures::*;
    use super::super::super::seen::JobSeen;
    use super::super::tests::{message_of, reason_of};
    use super::*;

    #[test]
    fn memory_that_runs_out_twice_at_one_place_stops_the_run_with_advice() {
        let once = plan_for(
            &prepared_job(),
            &train_seen(JobSeen::default(), vec![out_of_memory("a")]),
        );
        assert_eq!(once.status.phase, Some(JobPhase::Queued));
        assert_eq!(
            reason_of(&once, condition::PODS_RUNNING),
            Some(("False", "OOMKilled"))
        );
        let twice = train_seen(
            JobSeen::default(),
            vec![out_of_memory("a"), out_of_memory("b")],
        );
        let plan = plan_for(&stored(prepared_job(), &once), &twice);
        assert_eq!(
            reason_of(&plan, condition::FAILED),
            Some(("True", "OutOfMemory"))
        );
        let message = message_of(&plan, condition::FAILED);
        assert!(
            message.contains("limit of 3Gi") && message.contains("microBatchSize"),
            "{message}"
        );
        // Once that is stored, the Job that would make a third pod goes.
        let next = plan_for(&stored(prepared_job(), &plan), &twice);
        assert_eq!(next.delete.len(), 1);
        assert!(next.create.is_empty());
    }

    fn out_of_memory_at(checkpoints: [Option<i64>; 2]) -> Option<NewestCheckpoint> {
        let attempts: Vec<_> = checkpoints
            .into_iter()
            .zip([17, 23])
            .map(|(checkpoint_step, step)| Attempt {
                reason: Some("OOMKilled".into()),
                step: Some(step),
                checkpoint_step,
                ..Attempt::default()
            })
            .collect();
        out_of_memory_twice(&attempts)
    }

    #[test]
    fn memory_that_runs_out_with_a_checkpoint_in_between_is_tried_again() {
        assert_eq!(out_of_memory_at([None, Some(20)]), None);
        assert_eq!(out_of_memory_at([Some(10), Some(20)]), None);
    }

    #[test]
    fn memory_that_runs_out_twice_after_one_checkpoint_ends_the_run_whatever_step_was_read_last() {
        assert_eq!(out_of_memory_at([None, None]), Some(NewestCheckpoint(None)));
        assert_eq!(
            out_of_memory_at([Some(10), Some(10)]),
            Some(NewestCheckpoint(Some(10)))
        );
    }

    #[test]
    fn an_attempt_knows_the_newest_checkpoint_by_its_end_and_none_of_later_ones() {
        let mut job = prepared_job();
        let mut reported = progress(finetune_crds::contract::RunPhase::Training, 15);
        reported.checkpoint_step = Some(10);
        let seen = Seen {
            progress: Some(Ok(reported)),
            ..train_seen(JobSeen::default(), vec![running(Stage::Train)])
        };
        job = stored(job.clone(), &plan_for(&job, &seen));
        let killed = |name: &str| out_of_memory(name);
        let ended = train_seen(JobSeen::default(), vec![killed("pod-1")]);
        job = stored(job.clone(), &plan_for(&job, &ended));
        let step = |job: &finetune_crds::FineTuneJob, index: usize| {
            job.status.as_ref().unwrap().attempts[index].checkpoint_step
        };
        assert_eq!(step(&job, 0), Some(10));
        job.status
            .as_mut()
            .unwrap()
            .checkpoint
            .as_mut()
            .unwrap()
            .step = 30;
        let both = train_seen(JobSeen::default(), vec![killed("pod-1"), killed("pod-2")]);
        let plan = plan_for(&job, &both);
        job = stored(job, &plan);
        assert_eq!((step(&job, 0), step(&job, 1)), (Some(10), Some(30)));
        assert_eq!(plan.status.phase, Some(JobPhase::Queued));
    }

    #[test]
    fn a_pod_that_vanished_is_listed_as_lost() {
        let job = prepared_job();
        let run = plan_for(
            &job,
            &train_seen(JobSeen::default(), vec![running(Stage::Train)]),
        );
        let plan = plan_for(&stored(job, &run), &train_seen(JobSeen::default(), vec![]));
        assert_eq!(plan.status.attempts[0].reason.as_deref(), Some("Lost"));
    }
}
