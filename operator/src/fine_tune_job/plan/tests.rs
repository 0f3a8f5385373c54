//! Every decision, as a table: what is stored and seen, and what is then planned.

use finetune_crds::FineTuneJob;
use finetune_crds::contract::{OutcomeReason, RunPhase, Stage};
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::condition;
use jiff::ToSpan;
use rstest::rstest;

use super::super::fixtures::*;
use super::super::seen::{ContainerSeen, JobSeen, PodSeen, Seen};
use super::super::status::condition_of;
use super::*;

pub(super) fn reason_of<'a>(plan: &'a Plan, type_: &str) -> Option<(&'a str, &'a str)> {
    let found = condition_of(Some(&plan.status), type_)?;
    Some((found.status.as_str(), found.reason.as_str()))
}

pub(super) fn message_of<'a>(plan: &'a Plan, type_: &str) -> &'a str {
    condition_of(Some(&plan.status), type_).map_or("", |found| &found.message)
}

pub(super) fn created(plan: &Plan) -> Vec<String> {
    plan.create
        .iter()
        .map(|child| match child {
            NewChild::ConfigMap(config_map) => config_map.metadata.name.clone().unwrap(),
            NewChild::Job(job) => job.metadata.name.clone().unwrap(),
        })
        .collect()
}

pub(super) fn said(stage: Stage, exit_code: i32, reason: OutcomeReason) -> PodSeen {
    ended(stage, exit_code, Some(outcome(stage, reason)))
}

#[test]
fn a_new_job_gets_its_manifest_first_and_then_its_prepare_job() {
    let plan = plan_for(&job(), &Seen::default());
    assert_eq!(created(&plan), ["support-manifest", "support-prepare"]);
    assert_eq!(plan.status.phase, Some(JobPhase::Preparing));
    assert_eq!(
        reason_of(&plan, condition::RECONCILING),
        Some(("True", "Preparing"))
    );
    assert_eq!(plan.status.observed_generation, Some(1));
}

#[test]
fn a_job_that_is_being_deleted_gets_nothing() {
    let mut job = job();
    job.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    let plan = plan_for(&job, &Seen::default());
    assert!(plan.create.is_empty() && plan.delete.is_empty());
}

#[test]
fn a_spec_that_cannot_be_acted_on_fails_with_all_its_faults() {
    let mut job = job();
    job.spec.output = None;
    job.spec.base_model.uri = "file:///base".into();
    let plan = plan_for(&job, &Seen::default());
    assert_eq!(plan.status.phase, Some(JobPhase::Failed));
    assert_eq!(
        reason_of(&plan, condition::STALLED),
        Some(("True", "InvalidSpec"))
    );
    let message = message_of(&plan, condition::FAILED);
    assert!(
        message.contains("spec.output.uri") && message.contains("spec.baseModel.uri"),
        "{message}"
    );
    assert!(plan.create.is_empty());
}

#[rstest]
#[case::prepare(job(), Seen { prepare: ours(JobSeen::default()), ..Seen::default() })]
#[case::train(prepared_job(), Seen { prepare: ours(complete()), train: ours(JobSeen::default()), ..Seen::default() })]
fn a_lost_manifest_is_written_again(#[case] job: FineTuneJob, #[case] seen: Seen) {
    assert_eq!(created(&plan_for(&job, &seen)), ["support-manifest"]);
}

#[test]
fn what_prepare_found_is_recorded_before_anything_is_trained() {
    let seen = prepare_seen(
        JobSeen::default(),
        vec![said(Stage::Prepare, 0, OutcomeReason::Succeeded)],
    );
    let plan = plan_for(&job(), &seen);
    assert_eq!(
        reason_of(&plan, condition::DATASET_VALID),
        Some(("True", "Prepared"))
    );
    assert_eq!(
        plan.status.dataset.as_ref().map(|dataset| dataset.rows),
        Some(150)
    );
    assert_eq!(
        plan.status.plan.as_ref().map(|plan| plan.total_steps),
        Some(100)
    );
    assert!(plan.create.is_empty());
    let next = plan_for(&stored(job(), &plan), &seen);
    assert_eq!(created(&next), ["support-train"]);
    assert_eq!(next.status.phase, Some(JobPhase::Queued));
}

#[test]
fn the_data_is_not_prepared_again_because_its_job_has_gone() {
    let seen = Seen {
        config_map: ours(manifest()),
        ..Seen::default()
    };
    assert_eq!(
        created(&plan_for(&prepared_job(), &seen)),
        ["support-train"]
    );
}

#[test]
fn a_dry_run_ends_well_and_trains_nothing() {
    let mut job = prepared_job();
    job.spec.dry_run = true;
    let plan = plan_for(&job, &prepare_seen(complete(), vec![]));
    assert_eq!(plan.status.phase, Some(JobPhase::Succeeded));
    assert_eq!(
        reason_of(&plan, condition::PUBLISHED),
        Some(("False", "DryRun"))
    );
    assert!(plan.create.is_empty() && plan.publish.is_none());
}

#[rstest]
#[case::bad_data(
    "PodFailurePolicy",
    10,
    OutcomeReason::InvalidInput,
    "InvalidInput happened; do this"
)]
#[case::no_secret(
    "BackoffLimitExceeded",
    1,
    OutcomeReason::Credentials,
    "no retry is left of 3"
)]
#[case::no_bucket(
    "BackoffLimitExceeded",
    1,
    OutcomeReason::NotFound,
    "NotFound happened; do this"
)]
fn a_failed_stage_fails_the_job_with_the_trainers_words(
    #[values(Stage::Prepare, Stage::Train)] stage: Stage,
    #[case] reason: &str,
    #[case] exit_code: i32,
    #[case] outcome: OutcomeReason,
    #[case] words: &str,
) {
    let (job, seen) = in_stage(
        stage,
        failed(reason, 4),
        vec![said(stage, exit_code, outcome)],
    );
    let plan = plan_for(&job, &seen);
    assert_eq!(plan.status.phase, Some(JobPhase::Failed));
    assert_eq!(
        reason_of(&plan, condition::FAILED),
        Some(("True", outcome.as_str()))
    );
    assert_eq!(
        reason_of(&plan, condition::STALLED),
        Some(("True", outcome.as_str()))
    );
    assert!(
        message_of(&plan, condition::FAILED).contains(words),
        "{}",
        message_of(&plan, condition::FAILED)
    );
    assert_eq!(
        reason_of(&plan, condition::RECONCILING),
        Some(("False", "Failed"))
    );
    assert_eq!(plan.next_check, None);
}

#[test]
fn the_jobs_deadline_comes_before_what_the_trainer_said() {
    let pods = vec![said(Stage::Train, 11, OutcomeReason::Preempted)];
    let plan = plan_for(
        &prepared_job(),
        &train_seen(failed("DeadlineExceeded", 1), pods),
    );
    assert_eq!(
        reason_of(&plan, condition::FAILED),
        Some(("True", "DeadlineExceeded"))
    );
}

#[test]
fn the_cause_of_a_failed_pod_is_told_from_the_first_time_on() {
    let tried = JobSeen {
        failed: 1,
        ..JobSeen::default()
    };
    let pods = vec![said(Stage::Prepare, 1, OutcomeReason::Credentials)];
    let plan = plan_for(&job(), &prepare_seen(tried, pods));
    assert_eq!(plan.status.phase, Some(JobPhase::Preparing));
    assert_eq!(
        reason_of(&plan, condition::PODS_RUNNING),
        Some(("False", "Credentials"))
    );
    let message = message_of(&plan, condition::PODS_RUNNING);
    assert!(message.contains("retry 1 of 3 follows"), "{message}");
}

#[rstest]
#[case::it_cannot_be_mended(10, OutcomeReason::InvalidInput, 0, "Ending")]
#[case::no_retry_is_left(1, OutcomeReason::Unavailable, 4, "Ending")]
#[case::preemption_is_free(11, OutcomeReason::Preempted, 3, "Preempted")]
fn a_pod_that_follows_is_promised_only_where_one_does(
    #[case] exit_code: i32,
    #[case] reason: OutcomeReason,
    #[case] failed: i32,
    #[case] expected: &str,
) {
    let tried = JobSeen {
        failed,
        ..JobSeen::default()
    };
    let plan = plan_for(
        &prepared_job(),
        &train_seen(tried, vec![said(Stage::Train, exit_code, reason)]),
    );
    assert_eq!(
        reason_of(&plan, condition::PODS_RUNNING),
        Some(("False", expected))
    );
}

#[rstest]
#[case("ImagePullBackOff", "--trainer-image")]
#[case("CreateContainerConfigError", "kubectl describe pod")]
fn a_pod_that_cannot_start_says_why(
    #[values(Stage::Prepare, Stage::Train)] stage: Stage,
    #[case] reason: &str,
    #[case] cure: &str,
) {
    let (job, seen) = in_stage(stage, JobSeen::default(), vec![waiting(stage, reason)]);
    let plan = plan_for(&job, &seen);
    assert_eq!(
        reason_of(&plan, condition::PODS_RUNNING),
        Some(("False", reason))
    );
    let message = message_of(&plan, condition::PODS_RUNNING);
    assert!(
        message.contains(cure) && message.contains("said the kubelet"),
        "{message}"
    );
    assert_eq!(
        reason_of(&plan, condition::RECONCILING).map(|(status, _)| status),
        Some("True")
    );
}

#[test]
fn a_pod_that_no_node_takes_says_why() {
    let unschedulable = PodSeen {
        unschedulable: Some("0/1 nodes are available".into()),
        ..pod(Stage::Train, ContainerSeen::Unknown)
    };
    let plan = plan_for(
        &prepared_job(),
        &train_seen(JobSeen::default(), vec![unschedulable]),
    );
    assert_eq!(plan.status.phase, Some(JobPhase::Queued));
    assert_eq!(
        reason_of(&plan, condition::PODS_RUNNING),
        Some(("False", "Unschedulable"))
    );
    assert!(message_of(&plan, condition::PODS_RUNNING).contains("0/1 nodes"));
}

#[test]
fn a_pod_that_may_not_be_created_says_why() {
    let seen = Seen {
        pod_refusal: Some("exceeded quota: team".into()),
        ..train_seen(JobSeen::default(), vec![])
    };
    let plan = plan_for(&prepared_job(), &seen);
    assert_eq!(
        reason_of(&plan, condition::PODS_RUNNING),
        Some(("False", "PodRefused"))
    );
    assert!(message_of(&plan, condition::PODS_RUNNING).contains("exceeded quota: team"));
}

#[rstest]
#[case(RunPhase::Loading, JobPhase::Training)]
#[case(RunPhase::Training, JobPhase::Training)]
#[case(RunPhase::Evaluating, JobPhase::Evaluating)]
#[case(RunPhase::Publishing, JobPhase::Publishing)]
fn a_runs_phase_is_the_jobs(#[case] run: RunPhase, #[case] expected: JobPhase) {
    let seen = Seen {
        progress: Some(Ok(progress(run, 42))),
        ..train_seen(JobSeen::default(), vec![running(Stage::Train)])
    };
    let plan = plan_for(&prepared_job(), &seen);
    assert_eq!(plan.status.phase, Some(expected));
    assert_eq!(
        plan.status
            .progress
            .as_ref()
            .map(|progress| progress.percent.as_str()),
        Some("42%")
    );
    assert_eq!(plan.next_check, Some(PROGRESS_INTERVAL));
    assert_eq!(plan.status.attempts.len(), 1);
    assert_eq!(plan.status.attempts[0].step, Some(42));
}

#[test]
fn a_run_out_of_sight_keeps_its_phase_and_is_said_to_be_out_of_sight() {
    let pods = || vec![running(Stage::Train)];
    let seen = Seen {
        progress: Some(Ok(progress(RunPhase::Evaluating, 100))),
        ..train_seen(JobSeen::default(), pods())
    };
    let job = stored(prepared_job(), &plan_for(&prepared_job(), &seen));
    let dark = Seen {
        progress: Some(Err("cannot be reached".into())),
        ..train_seen(JobSeen::default(), pods())
    };
    let plan = plan_for(&job, &dark);
    assert_eq!(plan.status.phase, Some(JobPhase::Evaluating));
    assert_eq!(
        reason_of(&plan, condition::PROGRESS_REPORTED),
        Some(("False", "Unreachable"))
    );
    assert!(plan.status.progress.is_some());
}

#[rstest]
#[case::the_pod_was_lost(complete())]
fn a_run_whose_outcome_was_not_read_is_asked_again(#[case] train: JobSeen) {
    let plan = plan_for(&prepared_job(), &train_seen(train, vec![]));
    assert_eq!(plan.delete.len(), 1);
    assert_eq!(plan.delete[0].uid, "child-uid");
    let gone = Seen {
        config_map: ours(manifest()),
        ..Seen::default()
    };
    let next = plan_for(&stored(prepared_job(), &plan), &gone);
    assert_eq!(created(&next), ["support-train"]);
}

#[rstest]
#[case::succeeded(JobPhase::Succeeded)]
#[case::failed(JobPhase::Failed)]
fn a_finished_job_is_never_run_again(#[case] phase: JobPhase) {
    let mut job = prepared_job();
    job.status.as_mut().unwrap().phase = Some(phase);
    let plan = plan_for(&job, &Seen::default());
    assert!(plan.create.is_empty() && plan.publish.is_none() && plan.delete.is_empty());
    assert_eq!(plan.status.phase, Some(phase));
}

#[test]
fn a_job_without_a_pod_for_long_is_said_to_be_without() {
    let old = JobSeen {
        created: Some(now() - 60.seconds()),
        ..JobSeen::default()
    };
    let plan = plan_for(&prepared_job(), &train_seen(old, vec![]));
    assert_eq!(
        reason_of(&plan, condition::PODS_RUNNING),
        Some(("False", "NoPod"))
    );
}

#[test]
fn a_job_that_its_queue_has_just_let_go_is_not_without_a_pod() {
    let admitted = JobSeen {
        created: Some(now() - 3600.seconds()),
        started: Some(now() - 2.seconds()),
        ..JobSeen::default()
    };
    let plan = plan_for(&prepared_job(), &train_seen(admitted, vec![]));
    assert_eq!(
        reason_of(&plan, condition::PODS_RUNNING),
        Some(("False", "Starting"))
    );
}

#[test]
fn a_refused_child_is_final_only_if_it_can_never_be_accepted() {
    let refusal = |is_final| Refusal {
        what: "the Job support-train".into(),
        message: "no".into(),
        is_final,
        of_adapter: false,
    };
    let (status, next_check) = refused(&prepared_job(), &refusal(false), now());
    assert_eq!(
        condition_of(Some(&status), condition::PODS_RUNNING)
            .unwrap()
            .reason,
        "Refused"
    );
    assert_eq!(next_check, Some(PATIENCE));
    assert_ne!(status.phase, Some(JobPhase::Failed));
    assert_eq!(status.reason.as_deref(), Some("Refused"));
    // What is refused for long is tried less and less often.
    let mut waiting = prepared_job();
    waiting.status = Some(status.clone());
    let after = |seconds: i64| refused(&waiting, &refusal(false), now() + seconds.seconds());
    assert_eq!(after(120).1, Some(std::time::Duration::from_mins(2)));
    assert_eq!(after(86_400).1, Some(MOST_PATIENCE));
    assert_eq!(
        after(120).0,
        status,
        "a status that only waits stays as it is"
    );
    let (status, next_check) = refused(&prepared_job(), &refusal(true), now());
    assert_eq!((status.phase, next_check), (Some(JobPhase::Failed), None));
}

fn in_stage(stage: Stage, is: JobSeen, pods: Vec<PodSeen>) -> (FineTuneJob, Seen) {
    match stage {
        Stage::Prepare => (job(), prepare_seen(is, pods)),
        Stage::Train => (prepared_job(), train_seen(is, pods)),
    }
}

#[test]
fn children_are_as_they_were_reviewed() {
    let valid = super::super::validate::validate(&job()).unwrap();
    insta::assert_yaml_snapshot!("config_map", config_map::config_map(&valid));
    // The architecture would be that of the machine on which the test runs.
    let mut job = job();
    job.spec
        .placement
        .node_selector
        .insert("kubernetes.io/arch".into(), "amd64".into());
    let valid = super::super::validate::validate(&job).unwrap();
    insta::assert_yaml_snapshot!(
        "prepare_job",
        stage_job::job(&valid, &settings(), Stage::Prepare, 3)
    );
    insta::assert_yaml_snapshot!(
        "train_job",
        stage_job::job(&valid, &settings(), Stage::Train, 3)
    );
}

#[test]
fn the_trainer_reads_back_the_spec_that_was_applied() {
    let valid = super::super::validate::validate(&job()).unwrap();
    let data = config_map::config_map(&valid).data.unwrap();
    let read: FineTuneJob =
        serde_saphyr::from_str(&data[finetune_crds::names::JOB_FILE_KEY]).unwrap();
    assert_eq!(read.spec.digest(), job().spec.digest());
    assert_eq!(read.metadata.uid.as_deref(), Some(UID));
}
