//! How many pods of a stage have failed, over all the Jobs that the stage has had. Pure.
//!
//! The Job controller counts from nothing in each Job. So the limit of a Job that follows another is less by what failed before
//! it, and that limit tells what the count was when the Job was made.

use super::super::seen::{Child, JobSeen};
use super::super::status::Draft;
use super::super::validate::Validated;

/// The failures of the stage whose Job is `stage_job`, in all its Jobs.
pub fn failures(job: &Validated, stage_job: &JobSeen) -> i32 {
    let before = stage_job
        .backoff_limit
        .map_or(0, |limit| (job.spec.max_retries - limit).max(0));
    before.saturating_add(stage_job.failed)
}

/// How many pods of the stage's next Job may fail and are replaced.
pub fn left(job: &Validated, draft: &Draft) -> i32 {
    let failed = draft.status.failures.unwrap_or_default();
    job.spec.max_retries.saturating_sub(failed).max(0)
}

/// Takes the count over into the status. Whether the status had it already: a Job is given up only once it has, for the count goes
/// with the Job.
pub fn record(job: &Validated, stage_job: &Child<JobSeen>, draft: &mut Draft) -> bool {
    let Child::Ours { is, .. } = stage_job else {
        return true;
    };
    let known = draft.status.failures.unwrap_or_default();
    let failures = failures(job, is);
    if failures <= known {
        return true;
    }
    draft.status.failures = Some(failures);
    false
}

/// Each stage has retries of its own: the next one begins with none used.
pub fn begin_stage(draft: &mut Draft) {
    draft.status.failures = None;
}

#[cfg(test)]
mod tests {
    use finetune_crds::contract::{OutcomeReason, Stage};
    use finetune_crds::names::condition;
    use finetune_crds::{FineTuneJob, FineTuneJobStatus};
    use jiff::ToSpan;
    use rstest::rstest;

    use super::super::super::fixtures::*;
    use super::super::super::seen::{PodSeen, Seen};
    use super::super::tests::{message_of, said};
    use super::super::{NewChild, Plan};
    use super::*;

    fn crashed(times: i32, backoff_limit: i32) -> JobSeen {
        JobSeen {
            failed: times,
            backoff_limit: Some(backoff_limit),
            ..JobSeen::default()
        }
    }

    fn in_stage(stage: Stage, is: JobSeen, pods: Vec<PodSeen>) -> (FineTuneJob, Seen) {
        match stage {
            Stage::Prepare => (job(), prepare_seen(is, pods)),
            Stage::Train => (prepared_job(), train_seen(is, pods)),
        }
    }

    fn on_a_lost_node(stage: Stage) -> PodSeen {
        PodSeen {
            end_due: Some(now() - 301.seconds()),
            ..running(stage)
        }
    }

    fn limit_of_the_new_job(plan: &Plan) -> Option<i32> {
        plan.create.iter().find_map(|child| match child {
            NewChild::Job(job) => job.spec.as_ref()?.backoff_limit,
            NewChild::ConfigMap(_) => None,
        })
    }

    #[rstest]
    fn a_lost_node_gives_back_no_retry_that_was_used_before(
        #[values(Stage::Prepare, Stage::Train)] stage: Stage,
    ) {
        // The first Job fails once, the second one twice, and each loses its node then.
        let mut limit = 3;
        let mut known = None;
        for times in [1, 2] {
            let (mut job, seen) =
                in_stage(stage, crashed(times, limit), vec![on_a_lost_node(stage)]);
            let status: &mut FineTuneJobStatus = job.status.get_or_insert_default();
            status.failures = known;
            let counted = plan_for(&job, &seen);
            assert!(
                counted.delete.is_empty(),
                "the count is stored before the Job goes"
            );
            let job = stored(job, &counted);
            let given_up = plan_for(&job, &seen);
            assert_eq!(given_up.delete.len(), 2);
            let job = stored(job, &given_up);
            let gone = Seen {
                config_map: ours(manifest()),
                ..Seen::default()
            };
            let next = plan_for(&job, &gone);
            limit = limit_of_the_new_job(&next).unwrap();
            known = next.status.failures;
        }
        assert_eq!((limit, known), (0, Some(3)));
    }

    #[test]
    fn a_count_that_is_never_stored_keeps_no_lost_pod_for_ever() {
        let long_lost = PodSeen {
            end_due: Some(now() - 360.seconds()),
            ..running(Stage::Train)
        };
        let plan = plan_for(&prepared_job(), &train_seen(crashed(1, 3), vec![long_lost]));
        assert_eq!(plan.delete.len(), 2);
    }

    #[test]
    fn training_begins_with_all_retries_whatever_preparing_used() {
        let pods = vec![said(Stage::Prepare, 0, OutcomeReason::Succeeded)];
        let seen = prepare_seen(crashed(2, 3), pods);
        let prepared = plan_for(&job(), &seen);
        assert_eq!(prepared.status.failures, None);
        let next = plan_for(&stored(job(), &prepared), &seen);
        assert_eq!(limit_of_the_new_job(&next), Some(3));
    }

    #[test]
    fn the_retry_that_is_promised_counts_those_of_earlier_jobs() {
        let pods = vec![said(Stage::Train, 1, OutcomeReason::Unavailable)];
        let plan = plan_for(&prepared_job(), &train_seen(crashed(1, 1), pods));
        let message = message_of(&plan, condition::PODS_RUNNING);
        assert!(message.contains("retry 3 of 3 follows"), "{message}");
    }

    #[test]
    fn a_job_of_an_earlier_version_has_used_what_it_counts_itself() {
        let valid = super::super::super::validate::validate(&job()).unwrap();
        assert_eq!(failures(&valid, &crashed(2, 3)), 2);
        assert_eq!(failures(&valid, &crashed(2, 9)), 2);
        let unknown = JobSeen {
            backoff_limit: None,
            ..crashed(2, 3)
        };
        assert_eq!(failures(&valid, &unknown), 2);
    }
}
