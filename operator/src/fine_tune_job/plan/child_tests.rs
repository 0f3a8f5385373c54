//! Objects with the name of a child: ours, changed by somebody, left by an earlier job, or somebody else's.

use finetune_crds::FineTuneJob;
use finetune_crds::names::condition;
use rstest::rstest;

use super::super::fixtures::*;
use super::super::seen::{Child, ManifestSeen, Seen};
use super::tests::{created, message_of, reason_of};
use super::{DoomedKind, PROGRESS_INTERVAL};

fn foreign<T>() -> Child<T> {
    Child::Foreign {
        owner: "the CronJob x with UID y".into(),
    }
}

#[test]
fn a_manifest_that_somebody_else_wrote_is_replaced_and_said_so() {
    let mut other = job();
    other.spec.dataset.train[0].uri = "s3://stolen/rows.jsonl".to_owned();
    for forged in [Some(manifest_of(&other)), Some(ManifestSeen(None)), None] {
        let is_forged = forged.is_some();
        let seen = Seen {
            config_map: ours(forged.unwrap_or_else(manifest)),
            ..Seen::default()
        };
        let plan = plan_for(&job(), &seen);
        assert_eq!(plan.delete.len(), usize::from(is_forged));
        assert_eq!(plan.events.len(), usize::from(is_forged));
        assert_eq!(plan.create.is_empty(), is_forged, "nothing may start on it");
        if is_forged {
            assert_eq!(
                (plan.delete[0].kind, plan.delete[0].name.as_str()),
                (DoomedKind::ConfigMap, "support-manifest")
            );
            assert!(plan.events[0].warning && plan.events[0].reason == "ManifestReplaced");
        }
    }
}

#[test]
fn a_manifest_that_another_version_wrote_is_left() {
    let text = manifest().0.unwrap();
    // Another order, and a default that this version would have written.
    let mut value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    value["spec"].as_object_mut().unwrap().remove("dryRun");
    let seen = Seen {
        config_map: ours(ManifestSeen(Some(value.to_string()))),
        ..Seen::default()
    };
    let plan = plan_for(&job(), &seen);
    assert!(plan.delete.is_empty());
    assert_eq!(created(&plan), ["support-prepare"]);
}

#[rstest]
#[case::config_map(job(), Seen { config_map: Child::Leftover, ..Seen::default() })]
#[case::prepare(job(), Seen { config_map: ours(manifest()), prepare: Child::Leftover, ..Seen::default() })]
#[case::train(prepared_job(), Seen { config_map: ours(manifest()), train: Child::Leftover, ..Seen::default() })]
fn what_an_earlier_job_of_the_same_name_left_is_waited_for(
    #[case] job: FineTuneJob,
    #[case] seen: Seen,
) {
    let plan = plan_for(&job, &seen);
    assert!(plan.create.is_empty() && plan.delete.is_empty());
    assert_eq!(
        reason_of(&plan, condition::PODS_RUNNING),
        Some(("False", "EarlierJobTerminating"))
    );
    assert_eq!(plan.next_check, Some(PROGRESS_INTERVAL));
    let warnings: Vec<_> = crate::fine_tune_job::events::between(job.status.as_ref(), &plan.status)
        .into_iter()
        .filter(|event| event.warning)
        .collect();
    assert_eq!(warnings, []);
}

#[rstest]
#[case::config_map(job(), Seen { config_map: foreign(), ..Seen::default() }, "a ConfigMap named support-manifest")]
#[case::prepare(job(), Seen { config_map: ours(manifest()), prepare: foreign(), ..Seen::default() }, "a Job named support-prepare")]
#[case::train(prepared_job(), Seen { config_map: ours(manifest()), train: foreign(), ..Seen::default() }, "a Job named support-train")]
fn somebody_elses_object_is_left_alone_and_named(
    #[case] job: FineTuneJob,
    #[case] seen: Seen,
    #[case] what: &str,
) {
    let plan = plan_for(&job, &seen);
    assert!(plan.create.is_empty() && plan.delete.is_empty());
    assert_eq!(
        reason_of(&plan, condition::PODS_RUNNING),
        Some(("False", "NameClash"))
    );
    let message = message_of(&plan, condition::PODS_RUNNING);
    assert!(
        message.contains(what) && message.contains("CronJob x"),
        "{message}"
    );
}
