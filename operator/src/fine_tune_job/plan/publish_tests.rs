//! What becomes of a result: recorded first, then handed to its Adapter, once.

use finetune_crds::contract::{Outcome, OutcomeReason, Published, Stage};
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::condition;

use super::super::fixtures::*;
use super::super::seen::{AdapterSeen, JobSeen, Seen};
use super::tests::{reason_of, said};
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
    assert_eq!(publication.uid, None);
    assert_eq!(next.status.phase, Some(JobPhase::Succeeded));
}

fn adapter(digest: char, from_job: &str, from_younger_job: bool) -> AdapterSeen {
    AdapterSeen::Present {
        uid: "adapter-uid".into(),
        deleting: false,
        digest: Some(super::super::fixtures::digest(digest)),
        from_job: Some(from_job.into()),
        from_younger_job,
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
    assert_eq!(publication.uid.as_deref(), Some("adapter-uid"));
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
fn a_whole_model_needs_no_adapter() {
    let mut job = prepared_job();
    job.spec.method.qlora = None;
    job.spec.method.full = Some(finetune_crds::fine_tune_job::Full {});
    let full = outcome(Stage::Train, OutcomeReason::Succeeded);
    let full = Outcome {
        model: full.adapter.clone(),
        adapter: None,
        ..full
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
    if let Some(output) = &mut job.spec.output {
        (output.merged_model, output.gguf_adapter) = (true, true);
    }
    // Digests alone, as a termination message has them.
    let published = |digest| Published {
        uri: String::new(),
        digest,
    };
    let both = Outcome {
        adapter: Some(published(digest('a'))),
        model: Some(published(digest('d'))),
        ..outcome(Stage::Train, OutcomeReason::Succeeded)
    };
    let plan = plan_for(
        &job,
        &train_seen(complete(), vec![ended(Stage::Train, 0, Some(both))]),
    );
    let result = plan.status.result.clone().unwrap();
    let folder = |digest: String| digest.replace(':', "-");
    let (adapter, model) = (folder(digest('a')), folder(digest('d')));
    assert_eq!(result.adapter_digest, Some(digest('a')));
    assert_eq!(
        result.uri,
        format!("s3://adapters/team-a/support/{adapter}/")
    );
    assert_eq!(result.model_digest, Some(digest('d')));
    assert_eq!(
        result.merged_model_uri,
        Some(format!("s3://adapters/team-a/support/model/{model}/"))
    );
    assert_eq!(
        result.gguf_adapter_uri,
        Some(format!(
            "s3://adapters/team-a/support/{adapter}/adapter.gguf"
        ))
    );
    let next = plan_for(&stored(job, &plan), &Seen::default());
    assert_eq!(next.publish.unwrap().source.digest, digest('a'));
}

#[test]
fn where_a_result_lies_is_not_believed_but_known() {
    let job = prepared_job();
    let lie = Outcome {
        adapter: Some(Published {
            uri: "s3://elsewhere/poisoned/".to_owned(),
            digest: digest('a'),
        }),
        gguf_adapter: Some("s3://elsewhere/adapter.gguf".to_owned()),
        ..outcome(Stage::Train, OutcomeReason::Succeeded)
    };
    let plan = plan_for(
        &job,
        &train_seen(complete(), vec![ended(Stage::Train, 0, Some(lie))]),
    );
    let result = plan.status.result.clone().unwrap();
    assert!(
        result.uri.starts_with("s3://adapters/team-a/support/"),
        "{}",
        result.uri
    );
    assert_eq!(result.gguf_adapter_uri, None);
    let next = plan_for(&stored(job, &plan), &Seen::default());
    let source = next.publish.unwrap().source;
    assert_eq!(source.uri, result.uri);
}
