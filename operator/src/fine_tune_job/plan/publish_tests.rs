//! What becomes of a result: recorded first, then handed to its Adapter, once.

use finetune_crds::contract::{Outcome, OutcomeReason, Published, Stage};
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::condition;
use jiff::ToSpan;
use rstest::rstest;

use super::super::fixtures::*;
use super::super::seen::{AdapterSeen, ContainerSeen, JobSeen, Seen};
use super::tests::{message_of, reason_of, said};
use super::*;

#[test]
fn a_result_is_recorded_before_it_is_handed_over() {
    let job = prepared_job();
    let pods = vec![said(Stage::Train, 0, OutcomeReason::Succeeded)];
    let plan = plan_for(&job, &train_seen(JobSeen::default(), pods));
    assert!(plan.publish.is_none());
    assert_eq!(plan.status.phase, Some(JobPhase::Publishing));
    let result = plan.status.result.clone().unwrap();
    assert_eq!(result.adapter_digest, Some(digest('a')));
    assert_eq!(result.adapter_name.as_deref(), Some("support"));
    assert_eq!(
        plan.status.base_model.as_ref().unwrap().digest,
        Some(digest('b'))
    );
    assert_eq!(plan.status.progress.as_ref().unwrap().percent, "100%");
    let next = plan_for(&stored(job, &plan), &Seen::default());
    let publication = next.publish.unwrap();
    assert_eq!(publication.source.digest, digest('a'));
    assert_eq!(publication.base_model.digest, Some(digest('b')));
    assert_eq!(publication.provenance.uid, UID);
    assert_eq!(publication.onto, None);
    assert_eq!(
        publication
            .provenance
            .created_at
            .map(|time| time.0.to_string()),
        Some("2026-01-01T00:00:00Z".to_owned())
    );
    assert_eq!(next.status.phase, Some(JobPhase::Succeeded));
}

fn adapter(digest: char, from_job: &str, from_younger_job: bool) -> AdapterSeen {
    AdapterSeen::Present {
        uid: "adapter-uid".into(),
        resource_version: "41".into(),
        deleting: false,
        digest: Some(super::super::fixtures::digest(digest)),
        from_job: Some(from_job.into()),
        from_younger_job,
        owners: None,
    }
}

fn publish_onto(adapter: AdapterSeen) -> Plan {
    plan_for(
        &trained_job(),
        &Seen {
            adapter,
            ..Seen::default()
        },
    )
}

#[test]
fn an_adapter_with_an_older_version_gets_the_new_one() {
    let plan = publish_onto(adapter('c', "uid-0", false));
    let publication = plan.publish.as_ref().unwrap();
    let onto = publication.onto.as_ref().unwrap();
    assert_eq!(
        (onto.uid.as_str(), onto.resource_version.as_str()),
        ("adapter-uid", "41")
    );
    assert_eq!(
        reason_of(&plan, condition::PUBLISHED),
        Some(("True", "Published"))
    );
    assert_eq!(
        reason_of(&plan, condition::COMPLETE),
        Some(("True", "Succeeded"))
    );
}

#[test]
fn an_adapter_that_has_the_version_already_is_not_written_again() {
    let plan = publish_onto(adapter('a', UID, false));
    assert!(plan.publish.is_none());
    assert_eq!(
        reason_of(&plan, condition::PUBLISHED),
        Some(("True", "Published"))
    );
}

#[test]
fn an_older_job_never_undoes_a_newer_version() {
    let plan = publish_onto(adapter('c', "uid-2", true));
    assert!(plan.publish.is_none());
    assert_eq!(
        reason_of(&plan, condition::PUBLISHED),
        Some(("False", "Superseded"))
    );
    assert_eq!(plan.status.phase, Some(JobPhase::Succeeded));
}

#[test]
fn an_adapter_that_cannot_be_read_is_named_and_the_job_waits_for_it() {
    let plan = publish_onto(AdapterSeen::Malformed("missing field `port`".into()));
    assert!(plan.publish.is_none());
    assert_eq!(
        reason_of(&plan, condition::PUBLISHED),
        Some(("False", "AdapterMalformed"))
    );
    assert_eq!(plan.status.phase, Some(JobPhase::Publishing));
    assert!(plan.next_check.is_some());
}

#[test]
fn an_adapter_deleted_after_publication_stays_deleted() {
    let job = trained_job();
    let published = plan_for(&job, &Seen::default());
    assert!(published.publish.is_some());
    let next = plan_for(&stored(job, &published), &Seen::default());
    assert!(next.publish.is_none());
}

#[test]
fn of_two_jobs_of_one_second_all_sides_take_the_same_one_for_the_younger() {
    let (early, late) = (now(), now() + 1.seconds());
    assert!(publish::is_younger((late, "a"), (Some(early), "b")));
    assert!(!publish::is_younger((early, "b"), (Some(late), "a")));
    assert!(publish::is_younger((early, "b"), (Some(early), "a")));
    assert!(!publish::is_younger((early, "a"), (Some(early), "b")));
}

/// A whole model where it belongs.
fn model() -> Published {
    Published {
        uri: format!(
            "s3://adapters/team-a/support/model/{}/",
            digest('d').replace(':', "-")
        ),
        digest: digest('d'),
    }
}

#[rstest]
#[case::another_spec(|said: &mut Outcome| said.spec_digest = digest('9'), "specDigest is `sha256:999")]
#[case::another_folder(
    |said: &mut Outcome| said.adapter.as_mut().unwrap().uri = "s3://elsewhere/evil/".to_owned(),
    "adapter.uri is `s3://elsewhere/evil/`, expected `s3://adapters/team-a/support/sha256-aaa"
)]
#[case::the_folder_of_another_digest(
    |said: &mut Outcome| said.adapter.as_mut().unwrap().digest = digest('b'),
    "expected `s3://adapters/team-a/support/sha256-bbb"
)]
#[case::no_digest(
    |said: &mut Outcome| said.adapter.as_mut().unwrap().digest = "../..".to_owned(),
    "adapter.digest is `../..`"
)]
#[case::a_model_that_nobody_wanted(
    |said: &mut Outcome| said.model = Some(model()),
    "output.mergedModel is false"
)]
#[case::a_gguf_elsewhere(
    |said: &mut Outcome| said.gguf_adapter = Some("s3://elsewhere/adapter.gguf".to_owned()),
    "ggufAdapter is `s3://elsewhere/adapter.gguf`"
)]
fn an_outcome_that_cannot_be_true_hands_nothing_over(
    #[case] spoil: fn(&mut Outcome),
    #[case] expected: &str,
) {
    let mut said = outcome(Stage::Train, OutcomeReason::Succeeded);
    spoil(&mut said);
    let pods = vec![ended(Stage::Train, 0, Some(said))];
    let plan = plan_for(&prepared_job(), &train_seen(complete(), pods));
    assert_eq!(
        reason_of(&plan, condition::FAILED),
        Some(("True", "OutcomeMismatch"))
    );
    let message = message_of(&plan, condition::FAILED);
    assert!(message.contains(expected), "{message}");
    assert!(plan.status.result.is_none() && plan.publish.is_none());
}

#[test]
fn an_outcome_of_another_job_is_named_and_not_asked_for_again() {
    let mut pod = ended(Stage::Train, 0, None);
    if let ContainerSeen::Terminated(terminated) = &mut pod.container {
        terminated.stranger =
            Some("the outcome of stage Train of a FineTuneJob with UID `x`".into());
    }
    let plan = plan_for(&prepared_job(), &train_seen(complete(), vec![pod]));
    assert_eq!(
        reason_of(&plan, condition::FAILED),
        Some(("True", "OutcomeMismatch"))
    );
    assert!(message_of(&plan, condition::FAILED).contains("with UID `x`"));
}

#[test]
fn an_outcome_that_has_room_for_digests_alone_names_the_same_places() {
    let mut job = prepared_job();
    let output = job.spec.output.as_mut().unwrap();
    (output.merged_model, output.gguf_adapter) = (true, true);
    output.uri = Some("s3://adapters/".into());
    let said = |uri: bool| {
        let mut said = outcome(Stage::Train, OutcomeReason::Succeeded);
        said.spec_digest = job.spec.digest();
        said.model = Some(model());
        if !uri {
            said.adapter.as_mut().unwrap().uri.clear();
            said.model.as_mut().unwrap().uri.clear();
        }
        let pods = vec![ended(Stage::Train, 0, Some(said))];
        plan_for(&job, &train_seen(complete(), pods))
            .status
            .result
            .unwrap()
    };
    let result = said(false);
    assert_eq!(result, said(true));
    assert!(
        result
            .uri
            .starts_with("s3://adapters/team-a/support/sha256-aaa")
    );
    assert_eq!(
        result.gguf_adapter_uri,
        Some(format!("{}adapter.gguf", result.uri))
    );
    assert!(
        result
            .merged_model_uri
            .unwrap()
            .contains("/support/model/sha256-ddd")
    );
}

#[test]
fn what_an_earlier_version_began_is_believed() {
    let said = Outcome {
        spec_digest: job().spec.earlier_digest(),
        ..outcome(Stage::Train, OutcomeReason::Succeeded)
    };
    let pods = vec![ended(Stage::Train, 0, Some(said))];
    let plan = plan_for(&prepared_job(), &train_seen(complete(), pods));
    assert!(plan.status.result.is_some());
}

#[test]
fn a_forged_prepare_outcome_starts_no_training() {
    let said = Outcome {
        spec_digest: digest('9'),
        ..outcome(Stage::Prepare, OutcomeReason::Succeeded)
    };
    let pods = vec![ended(Stage::Prepare, 0, Some(said))];
    let plan = plan_for(&job(), &prepare_seen(complete(), pods));
    assert_eq!(
        reason_of(&plan, condition::FAILED),
        Some(("True", "OutcomeMismatch"))
    );
}

#[test]
fn a_whole_model_needs_no_adapter() {
    let mut job = prepared_job();
    job.spec.method.qlora = None;
    job.spec.method.full = Some(finetune_crds::fine_tune_job::Full {});
    let full = Outcome {
        model: Some(model()),
        adapter: None,
        spec_digest: job.spec.digest(),
        ..outcome(Stage::Train, OutcomeReason::Succeeded)
    };
    let recorded = plan_for(
        &job,
        &train_seen(complete(), vec![ended(Stage::Train, 0, Some(full))]),
    );
    let plan = plan_for(&stored(job, &recorded), &Seen::default());
    assert!(plan.publish.is_none());
    assert_eq!(
        reason_of(&plan, condition::PUBLISHED),
        Some(("True", "ModelPublished"))
    );
    assert_eq!(plan.status.phase, Some(JobPhase::Succeeded));
}

#[test]
fn a_merged_model_and_a_gguf_are_recorded_beside_their_adapter() {
    let mut job = prepared_job();
    let output = job.spec.output.as_mut().unwrap();
    (output.merged_model, output.gguf_adapter) = (true, true);
    let both = outcome(Stage::Train, OutcomeReason::Succeeded);
    let merged = model();
    let gguf = format!("{}adapter.gguf", both.adapter.as_ref().unwrap().uri);
    let both = Outcome {
        model: Some(merged.clone()),
        gguf_adapter: Some(gguf.clone()),
        spec_digest: job.spec.digest(),
        ..both
    };
    let adapter = both.adapter.clone().unwrap();
    let plan = plan_for(
        &job,
        &train_seen(complete(), vec![ended(Stage::Train, 0, Some(both))]),
    );
    let result = plan.status.result.clone().unwrap();
    assert_eq!(result.adapter_digest, Some(adapter.digest.clone()));
    assert_eq!(result.uri, adapter.uri);
    assert_eq!(result.model_digest, Some(merged.digest));
    assert_eq!(result.merged_model_uri, Some(merged.uri));
    assert_eq!(result.gguf_adapter_uri, Some(gguf));
    let next = plan_for(&stored(job, &plan), &Seen::default());
    assert_eq!(next.publish.unwrap().source.digest, adapter.digest);
}
