//! What is said of a stage's end: warnings, the one word of the status, and a pod that says nothing.

use finetune_crds::contract::{OutcomeReason, Stage};
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::condition;
use rstest::rstest;

use super::super::fixtures::*;
use super::super::seen::{JobSeen, PodSeen, Seen};
use super::tests::{message_of, reason_of, said};

#[test]
fn what_was_odd_about_the_data_is_told_in_the_condition_and_in_one_event() {
    let mut found = outcome(Stage::Prepare, OutcomeReason::Succeeded);
    found.warnings = vec![
        "3 rows repeat an earlier one".to_owned(),
        "2 rows are cut".to_owned(),
    ];
    found.version = Some("0.0.1".to_owned());
    let seen = prepare_seen(
        JobSeen::default(),
        vec![ended(Stage::Prepare, 0, Some(found))],
    );
    let plan = plan_for(&job(), &seen);
    assert_eq!(
        reason_of(&plan, condition::DATASET_VALID),
        Some(("True", "Prepared"))
    );
    let message = message_of(&plan, condition::DATASET_VALID);
    for part in [
        "150 rows to train on",
        "3 rows repeat an earlier one; 2 rows are cut",
        "the trainer image trainer:test is 0.0.1, older than the operator",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(plan.events.len(), 1);
    let event = &plan.events[0];
    assert!(
        event.warning && event.reason == "DatasetWarnings" && event.note.contains("2 rows are cut")
    );
    let quiet = prepare_seen(
        JobSeen::default(),
        vec![said(Stage::Prepare, 0, OutcomeReason::Succeeded)],
    );
    assert_eq!(plan_for(&job(), &quiet).events, []);
}

#[rstest]
#[case::rows(OutcomeReason::InvalidInput, None, "False")]
#[case::a_source(OutcomeReason::NotFound, Some("spec.dataset.train[].uri"), "False")]
#[case::the_output(OutcomeReason::NotFound, Some("spec.output.uri"), "Unknown")]
#[case::keys(OutcomeReason::Credentials, None, "Unknown")]
#[case::the_trainer(OutcomeReason::Internal, None, "Unknown")]
fn the_data_is_called_invalid_only_where_it_is_what_the_stage_failed_for(
    #[case] reason: OutcomeReason,
    #[case] field: Option<&str>,
    #[case] status: &str,
) {
    let mut found = outcome(Stage::Prepare, reason);
    found.field = field.map(str::to_owned);
    let seen = prepare_seen(
        failed("PodFailurePolicy", 1),
        vec![ended(Stage::Prepare, 10, Some(found))],
    );
    let plan = plan_for(&job(), &seen);
    let reason = reason.as_str();
    assert_eq!(
        reason_of(&plan, condition::DATASET_VALID),
        Some((status, reason))
    );
    assert_eq!(reason_of(&plan, condition::FAILED), Some(("True", reason)));
}

#[test]
fn a_status_says_in_one_word_why_a_job_waits_or_failed() {
    let quota = Seen {
        pod_refusal: Some("exceeded quota".into()),
        ..train_seen(JobSeen::default(), vec![])
    };
    let plan = plan_for(&prepared_job(), &quota);
    assert_eq!(plan.status.reason.as_deref(), Some("PodRefused"));
    let running = plan_for(
        &stored(prepared_job(), &plan),
        &train_seen(JobSeen::default(), vec![running(Stage::Train)]),
    );
    assert_eq!(running.status.reason, None);
    let failed = plan_for(
        &prepared_job(),
        &train_seen(
            failed("PodFailurePolicy", 1),
            vec![said(Stage::Train, 13, OutcomeReason::Diverged)],
        ),
    );
    assert_eq!(failed.status.reason.as_deref(), Some("Diverged"));
}

#[test]
fn an_image_that_is_no_trainer_fails_instead_of_running_for_ever() {
    let silent = |stage, name: &str| {
        let pod = ended(stage, 0, None);
        vec![PodSeen {
            name: name.to_owned(),
            ..pod
        }]
    };
    let prepare = plan_for(
        &job(),
        &prepare_seen(complete(), silent(Stage::Prepare, "a")),
    );
    let first = plan_for(
        &prepared_job(),
        &train_seen(complete(), silent(Stage::Train, "a")),
    );
    let second = plan_for(
        &stored(prepared_job(), &first),
        &train_seen(complete(), silent(Stage::Train, "b")),
    );
    for plan in [prepare, second] {
        assert_eq!(
            reason_of(&plan, condition::FAILED),
            Some(("True", "NoOutcome"))
        );
        assert!(plan.delete.is_empty());
    }
}

#[test]
fn a_result_whose_outcome_did_not_fit_the_last_words_is_asked_for_once_more() {
    let pods = vec![ended(Stage::Train, 0, None)];
    let plan = plan_for(&prepared_job(), &train_seen(complete(), pods));
    assert_eq!(plan.status.phase, Some(JobPhase::Publishing));
    assert_eq!(plan.delete.len(), 1);
    let message = message_of(&plan, condition::PODS_RUNNING);
    assert!(
        message.contains("s3://adapters/.finetune/jobs/uid-1/"),
        "{message}"
    );
    // The next pod finds the outcome in storage, prints it and ends.
    let told = PodSeen {
        name: "pod-2".to_owned(),
        ..said(Stage::Train, 0, OutcomeReason::Succeeded)
    };
    let next = plan_for(
        &stored(prepared_job(), &plan),
        &train_seen(complete(), vec![told]),
    );
    assert!(next.status.result.is_some());
}
