//! What becomes of a pod whose node no longer answers.

use finetune_crds::FineTuneJob;
use finetune_crds::contract::Stage;
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::condition;
use jiff::ToSpan;
use rstest::rstest;

use super::super::fixtures::*;
use super::super::seen::{ContainerSeen, JobSeen, PodSeen, Seen};
use super::tests::{created, message_of, reason_of};
use super::*;

/// A pod that should have ended `seconds` ago.
fn overdue(stage: Stage, container: ContainerSeen, seconds: i64) -> PodSeen {
    PodSeen {
        end_due: Some(now() - seconds.seconds()),
        ..pod(stage, container)
    }
}

fn at_work() -> ContainerSeen {
    ContainerSeen::Running {
        started: Some(now()),
    }
}

fn in_stage(stage: Stage, pod: PodSeen) -> (FineTuneJob, Seen) {
    match stage {
        Stage::Prepare => (job(), prepare_seen(JobSeen::default(), vec![pod])),
        Stage::Train => (prepared_job(), train_seen(JobSeen::default(), vec![pod])),
    }
}

#[rstest]
fn a_pod_on_a_lost_node_is_given_up_with_its_job_and_another_one_follows(
    #[values(Stage::Prepare, Stage::Train)] stage: Stage,
    #[values(at_work(), ContainerSeen::Unknown)] container: ContainerSeen,
) {
    let (job, seen) = in_stage(stage, overdue(stage, container, 301));
    let plan = plan_for(&job, &seen);
    let doomed: Vec<_> = plan
        .delete
        .iter()
        .map(|doomed| (doomed.kind, doomed.uid.as_str()))
        .collect();
    assert_eq!(
        doomed,
        [
            (DoomedKind::Pod, "pod-uid-1"),
            (DoomedKind::Job, "child-uid"),
        ]
    );
    assert_eq!(
        reason_of(&plan, condition::PODS_RUNNING),
        Some(("False", "NodeLost"))
    );
    assert!(message_of(&plan, condition::PODS_RUNNING).contains("node-1"));
    let events = crate::fine_tune_job::events::between(job.status.as_ref(), &plan.status);
    assert!(
        events
            .iter()
            .any(|event| event.warning && event.reason == "NodeLost")
    );
    let gone = Seen {
        config_map: ours(manifest()),
        ..Seen::default()
    };
    let next = plan_for(&stored(job, &plan), &gone);
    assert_eq!(created(&next), [stage_job::name("support", stage)]);
}

#[test]
fn a_pod_that_has_time_left_to_end_is_left_alone() {
    let ending = |seconds| {
        let (job, seen) = in_stage(Stage::Train, overdue(Stage::Train, at_work(), seconds));
        plan_for(&job, &seen)
    };
    let within_grace = ending(-60);
    assert!(within_grace.delete.is_empty());
    assert_eq!(within_grace.status.phase, Some(JobPhase::Training));
    let overdue = ending(60);
    assert!(overdue.delete.is_empty());
    assert_eq!(
        reason_of(&overdue, condition::PODS_RUNNING),
        Some(("False", "Terminating"))
    );
    let message = message_of(&overdue, condition::PODS_RUNNING);
    assert!(
        message.contains("node-1") && message.contains("5 minutes"),
        "{message}"
    );
    assert!(overdue.next_check.is_some());
}

#[test]
fn a_pod_that_has_ended_and_is_only_kept_is_not_lost() {
    let kept = PodSeen {
        end_due: Some(now() - 3600.seconds()),
        ..out_of_memory("a")
    };
    let plan = plan_for(&prepared_job(), &train_seen(JobSeen::default(), vec![kept]));
    assert!(plan.delete.is_empty());
}
