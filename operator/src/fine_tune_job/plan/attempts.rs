//! The list of pods that trained: kept in the status, because a pod that is gone tells nothing. Pure.

use finetune_crds::contract::Stage;
use finetune_crds::fine_tune_job::Attempt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::seen::{ContainerSeen, PodSeen, Seen};

/// How many are kept.
const KEPT: usize = 10;
/// The reason of an attempt whose pod was gone before its end was seen.
pub const LOST: &str = "Lost";
/// The kubelet's reason for a container that used more memory than it may.
const OUT_OF_MEMORY: &str = "OOMKilled";

/// The list with what is seen of the train pods now.
pub fn update(mut attempts: Vec<Attempt>, seen: &Seen, now: Timestamp) -> Vec<Attempt> {
    for pod in seen.pods.iter().filter(|pod| pod.stage == Stage::Train) {
        let known = attempts.iter().position(|attempt| attempt.pod == pod.name);
        let Some(fresh) = attempt(pod, seen, known.map(|index| &attempts[index])) else {
            continue;
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

/// The step at which memory has run out twice, if so: a third pod would only do the same.
pub fn out_of_memory_twice(attempts: &[Attempt]) -> Option<Option<i64>> {
    let mut steps = attempts
        .iter()
        .filter(|attempt| attempt.reason.as_deref() == Some(OUT_OF_MEMORY))
        .map(|attempt| attempt.step);
    let mut before = Vec::new();
    steps.find(|step| {
        let twice = before.contains(step);
        before.push(*step);
        twice
    })
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
    fn memory_that_runs_out_twice_at_one_step_stops_the_run_with_advice() {
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

    #[test]
    fn memory_that_runs_out_at_two_different_steps_is_tried_again() {
        let mut job = prepared_job();
        let mut attempt = |pod: &str, step| {
            let attempt = finetune_crds::fine_tune_job::Attempt {
                pod: pod.into(),
                reason: Some("OOMKilled".into()),
                step: Some(step),
                ..Default::default()
            };
            job.status.as_mut().unwrap().attempts.push(attempt);
        };
        attempt("a", 10);
        attempt("b", 20);
        let plan = plan_for(
            &job,
            &train_seen(JobSeen::default(), vec![running(Stage::Train)]),
        );
        assert_eq!(plan.status.phase, Some(JobPhase::Training));
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
