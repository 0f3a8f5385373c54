//! Whole reconciles against a fake API server: which calls are made, in what order, and what they carry.

use std::sync::Arc;

use finetune_crds::FineTuneJob;
use finetune_crds::fine_tune_job::JobPhase;
use kube::runtime::controller::Action;
use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{UID, job, prepared_job, settings, trained_job};
use super::plan::Refusal;
use super::reconcile;
use crate::runtime::fake_api::{self, Asked, Record, refusal};
use crate::runtime::{Context, Error};

const JOB_PATH: &str = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs/support";
const JOBS_PATH: &str = "/apis/batch/v1/namespaces/team-a/jobs";
const CONFIG_MAPS_PATH: &str = "/api/v1/namespaces/team-a/configmaps";
const ADAPTERS_PATH: &str = "/apis/finetune.dev/v1alpha1/namespaces/team-a/adapters";
const ADAPTER_PATH: &str = "/apis/finetune.dev/v1alpha1/namespaces/team-a/adapters/support";

/// A server that holds `job` and otherwise nothing, and takes every write unless `special` answers first.
fn server(
    job: &FineTuneJob,
    special: impl Fn(&Asked) -> Option<(u16, Value)> + Send + Sync + 'static,
) -> (Arc<Context>, Record) {
    let stored = serde_json::to_value(job).unwrap();
    let (client, record) = fake_api::client(move |asked| {
        if let Some(answer) = special(asked) {
            return answer;
        }
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", JOB_PATH) => (200, stored.clone()),
            ("GET", "/api/v1/namespaces/team-a/pods") => (
                200,
                json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [] }),
            ),
            ("GET", _) => refusal(404, "NotFound", "none"),
            ("PATCH", path) if path.starts_with(JOB_PATH) => (200, stored.clone()),
            _ => (201, asked.body.clone()),
        }
    });
    (Arc::new(fake_api::context(client, settings())), record)
}

async fn look(job: FineTuneJob, context: &Arc<Context>) -> Result<Action, Error> {
    Box::pin(reconcile(Arc::new(job), Arc::clone(context))).await
}

fn status_written(record: &Record) -> Value {
    let written = record.writes();
    let status = written
        .iter()
        .find(|asked| asked.path.ends_with("/status"))
        .expect("a status was written");
    status.body["status"].clone()
}

#[tokio::test]
async fn a_new_job_is_read_afresh_and_its_children_are_created_in_order() {
    let (context, record) = server(&job(), |_| None);
    look(job(), &context).await.unwrap();
    let lines = record.lines();
    assert_eq!(lines[0], format!("GET {JOB_PATH}"));
    let writes: Vec<_> = record
        .writes()
        .iter()
        .map(|asked| format!("{} {}", asked.method, asked.path))
        .collect();
    assert_eq!(
        writes,
        [
            format!("POST {CONFIG_MAPS_PATH}"),
            format!("POST {JOBS_PATH}"),
            format!("PATCH {JOB_PATH}/status"),
        ]
    );
}

#[tokio::test]
async fn the_status_is_written_onto_what_was_read_by_its_own_field_manager() {
    let (context, record) = server(&job(), |_| None);
    look(job(), &context).await.unwrap();
    let writes = record.writes();
    let patch = writes.last().unwrap();
    assert_eq!(patch.body["metadata"]["resourceVersion"], "7");
    assert!(
        patch
            .query
            .contains("fieldManager=finetune-operator-fine-tune-job"),
        "{}",
        patch.query
    );
    assert_eq!(patch.body["status"]["phase"], "Preparing");
}

#[tokio::test]
async fn a_child_that_exists_already_is_left_for_the_next_look() {
    let exists =
        |asked: &Asked| (asked.method == "POST").then(|| refusal(409, "AlreadyExists", "there"));
    let (context, record) = server(&job(), exists);
    look(job(), &context).await.unwrap();
    assert_eq!(status_written(&record)["phase"], "Preparing");
}

#[tokio::test]
async fn a_job_that_changed_meanwhile_is_looked_at_again_and_tells_no_events() {
    let changed = |asked: &Asked| {
        asked
            .path
            .ends_with("/status")
            .then(|| refusal(409, "Conflict", "changed"))
    };
    let (context, record) = server(&job(), changed);
    let error = look(job(), &context).await.unwrap_err();
    assert!(error.is_conflict());
    assert!(!record.lines().iter().any(|line| line.contains("events")));
}

#[tokio::test]
async fn a_finished_job_costs_no_request() {
    let mut finished = trained_job();
    finished.status.as_mut().unwrap().phase = Some(JobPhase::Succeeded);
    let (context, record) = server(&finished, |_| None);
    assert_eq!(
        look(finished, &context).await.unwrap(),
        Action::await_change()
    );
    assert_eq!(record.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn a_watch_that_lags_behind_does_not_publish_again() {
    let lagging = trained_job();
    let mut fresh = trained_job();
    fresh.status.as_mut().unwrap().phase = Some(JobPhase::Succeeded);
    let (context, record) = server(&fresh, |_| None);
    look(lagging, &context).await.unwrap();
    assert!(
        !record.lines().contains(&format!("PATCH {ADAPTER_PATH}")),
        "{:?}",
        record.lines()
    );
}

#[tokio::test]
async fn a_quota_that_refuses_a_child_is_a_condition_and_not_an_error() {
    let quota = |asked: &Asked| {
        (asked.method == "POST" && asked.path == JOBS_PATH)
            .then(|| refusal(403, "Forbidden", "exceeded quota"))
    };
    let (context, record) = server(&job(), quota);
    let action = look(job(), &context).await.unwrap();
    assert_ne!(action, Action::await_change());
    let status = status_written(&record).to_string();
    assert!(
        status.contains("Refused") && status.contains("exceeded quota"),
        "{status}"
    );
    assert!(record.lines().iter().any(|line| line.contains("/events")));
}

/// Refuses every Job that is created, and returns what is then stored and said.
async fn refused_with(
    code: u16,
    reason: &'static str,
    message: &'static str,
) -> (Value, Action, Record) {
    let (context, record) = server(&job(), move |asked| {
        (asked.method == "POST" && asked.path == JOBS_PATH).then(|| refusal(code, reason, message))
    });
    let action = look(job(), &context).await.unwrap();
    (status_written(&record), action, record)
}

#[rstest]
#[case::a_webhook_without_a_code(
    400,
    "BadRequest",
    "admission webhook \"kyverno\" denied the request: no label team"
)]
#[case::a_webhook_with_a_server_error(
    500,
    "InternalError",
    "failed calling webhook \"gatekeeper\": timeout"
)]
#[case::a_webhook_that_says_invalid(
    422,
    "Invalid",
    "admission webhook \"x\" denied the request: no label team"
)]
#[case::a_policy(
    422,
    "Invalid",
    "jobs.batch \"support-prepare\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"
)]
#[case::too_large(413, "RequestEntityTooLarge", "limit is 3145728")]
#[tokio::test]
async fn a_refusal_that_somebody_may_take_back_is_shown_and_tried_again(
    #[case] code: u16,
    #[case] reason: &'static str,
    #[case] message: &'static str,
) {
    let (status, action, record) = refused_with(code, reason, message).await;
    assert_ne!(action, Action::await_change());
    assert_eq!(status["reason"], "Refused");
    assert_ne!(status["phase"], "Failed");
    let condition = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|condition| condition["type"] == "PodsRunning")
        .unwrap();
    assert!(
        condition["message"].as_str().unwrap().contains(message),
        "{condition}"
    );
    let event = record
        .writes()
        .into_iter()
        .find(|asked| asked.path.ends_with("/events"))
        .expect("an Event");
    assert_eq!(event.body["reason"], "Refused");
    assert_eq!(event.body["type"], "Warning");
}

#[tokio::test]
async fn a_child_that_the_api_itself_calls_invalid_ends_the_job() {
    let (status, action, _) = refused_with(
        422,
        "Invalid",
        "Job.batch \"support-prepare\" is invalid: spec.template.spec.tolerations[0].operator: Invalid value",
    )
    .await;
    assert_eq!(status["phase"], "Failed");
    assert_eq!(action, Action::await_change());
}

#[rstest]
#[case::busy(429, "TooManyRequests")]
#[case::away(503, "ServiceUnavailable")]
#[case::broken(500, "InternalError")]
#[tokio::test]
async fn a_passing_trouble_of_the_api_server_is_no_refusal(
    #[case] code: u16,
    #[case] reason: &'static str,
) {
    let (context, record) = server(&job(), move |asked| {
        (asked.method == "POST" && asked.path == JOBS_PATH).then(|| refusal(code, reason, "later"))
    });
    look(job(), &context).await.unwrap_err();
    assert!(!record.lines().iter().any(|line| line.ends_with("/status")));
}

/// An Adapter as the API server has it, with the version of a FineTuneJob created at `created`.
fn adapter_of(job_name: &str, uid: &str, created: Option<&str>) -> Value {
    let mut adapter = json!({
        "apiVersion": "finetune.dev/v1alpha1", "kind": "Adapter",
        "metadata": { "name": "support", "namespace": "team-a", "uid": "adapter-uid", "resourceVersion": "41" },
        "spec": {
            "source": { "uri": "s3://adapters/team-a/support/x/", "digest": super::fixtures::digest('c') },
            "provenance": { "fineTuneJob": job_name, "uid": uid }
        }
    });
    if let Some(created) = created {
        adapter["spec"]["provenance"]["createdAt"] = created.into();
    }
    adapter
}

#[tokio::test]
async fn an_adapter_that_another_job_wrote_meanwhile_is_looked_at_again_and_not_written_over() {
    let (context, record) = server(&trained_job(), |asked| {
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", ADAPTER_PATH) => Some((
                200,
                adapter_of("old", "uid-0", Some("2025-01-01T00:00:00Z")),
            )),
            // The API server's own check: the version that was read is no longer the one that is there.
            ("PATCH", ADAPTER_PATH) if asked.body["metadata"]["resourceVersion"] == "41" => {
                Some(refusal(409, "Conflict", "the object has been modified"))
            }
            _ => None,
        }
    });
    let error = look(trained_job(), &context).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert!(!record.lines().iter().any(|line| line.ends_with("/status")));
}

#[tokio::test]
async fn an_adapter_that_another_job_made_meanwhile_is_looked_at_again_and_not_written_over() {
    let (context, record) = server(&trained_job(), |asked| {
        (asked.method == "POST" && asked.path == ADAPTERS_PATH)
            .then(|| refusal(409, "AlreadyExists", "there"))
    });
    let error = look(trained_job(), &context).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    assert!(!record.lines().contains(&format!("PATCH {ADAPTER_PATH}")));
}

#[tokio::test]
async fn a_new_adapter_is_made_with_its_version_by_its_own_field_manager() {
    let (context, record) = server(&trained_job(), |_| None);
    look(trained_job(), &context).await.unwrap();
    let writes = record.writes();
    let written: Vec<_> = writes
        .iter()
        .filter(|asked| asked.path.starts_with(ADAPTERS_PATH))
        .collect();
    let [made] = written[..] else {
        panic!("{written:?}");
    };
    assert_eq!(
        (made.method.as_str(), made.path.as_str()),
        ("POST", ADAPTERS_PATH)
    );
    assert!(
        made.query
            .contains("fieldManager=finetune-operator-fine-tune-job"),
        "{}",
        made.query
    );
    let spec = &made.body["spec"];
    assert_eq!(spec["source"]["digest"], super::fixtures::digest('a'));
    assert_eq!(spec["baseModel"]["digest"], super::fixtures::digest('b'));
    assert_eq!(spec["provenance"]["createdAt"], "2026-01-01T00:00:00Z");
    assert_eq!(status_written(&record)["phase"], "Succeeded");
}

#[tokio::test]
async fn a_refused_version_leaves_no_adapter_without_one() {
    // A policy that takes an Adapter, but not this version.
    let (context, record) = server(&trained_job(), |asked| {
        (asked.path.starts_with(ADAPTERS_PATH) && asked.body["spec"]["source"].is_object())
            .then(|| refusal(403, "Forbidden", "policy"))
    });
    look(trained_job(), &context).await.unwrap();
    let accepted: Vec<_> = record
        .writes()
        .into_iter()
        .filter(|asked| {
            asked.path.starts_with(ADAPTERS_PATH) && !asked.body["spec"]["source"].is_object()
        })
        .collect();
    assert!(accepted.is_empty(), "{accepted:?}");
    assert_eq!(status_written(&record)["phase"], "Publishing");
}

#[tokio::test]
async fn a_later_version_is_applied_once_what_was_created_counts_as_applied() {
    let (context, record) = server(&trained_job(), |asked| {
        let mut there = adapter_of("old", "uid-0", Some("2025-01-01T00:00:00Z"));
        there["metadata"]["managedFields"] = json!([{
            "manager": "finetune-operator-fine-tune-job", "operation": "Update", "apiVersion": "finetune.dev/v1alpha1",
            "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { "f:provenance": { "f:datasetDigest": {} } } }
        }]);
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", ADAPTER_PATH) => Some((200, there)),
            ("PATCH", ADAPTER_PATH) if asked.body["metadata"]["managedFields"].is_array() => {
                there["metadata"]["resourceVersion"] = "42".into();
                Some((200, there))
            }
            _ => None,
        }
    });
    look(trained_job(), &context).await.unwrap();
    let patches: Vec<_> = record
        .writes()
        .into_iter()
        .filter(|asked| asked.path == ADAPTER_PATH)
        .collect();
    let [record_of_owners, version] = &patches[..] else {
        panic!("{patches:?}");
    };
    let metadata = &record_of_owners.body["metadata"];
    assert_eq!(metadata["resourceVersion"], "41");
    assert_eq!(metadata["managedFields"][0]["operation"], "Apply");
    assert_eq!(
        metadata["managedFields"][0]["fieldsV1"]["f:spec"]["f:provenance"]["f:datasetDigest"],
        json!({})
    );
    assert_eq!(version.body["metadata"]["resourceVersion"], "42");
    assert!(version.query.contains("force=true"), "{}", version.query);
    assert_eq!(status_written(&record)["phase"], "Succeeded");
}

#[rstest]
#[case::younger_and_gone("uid-2", Some("2026-01-01T00:00:01Z"), false)]
#[case::of_the_same_second("uid-2", Some("2026-01-01T00:00:00Z"), false)]
#[case::of_the_same_second_with_a_lesser_uid("uid-0", Some("2026-01-01T00:00:00Z"), true)]
#[case::older("uid-2", Some("2025-12-31T00:00:00Z"), true)]
#[case::gone_and_written_by_an_earlier_version("uid-2", None, true)]
#[tokio::test]
async fn a_younger_jobs_version_stays_although_that_job_is_gone(
    #[case] uid: &'static str,
    #[case] created: Option<&'static str>,
    #[case] written: bool,
) {
    let (context, record) = server(&trained_job(), move |asked| {
        (asked.method == "GET" && asked.path == ADAPTER_PATH)
            .then(|| (200, adapter_of("other", uid, created)))
    });
    look(trained_job(), &context).await.unwrap();
    assert_eq!(
        record.lines().contains(&format!("PATCH {ADAPTER_PATH}")),
        written
    );
    let status = status_written(&record);
    assert_eq!(
        status["reason"].as_str(),
        (!written).then_some("Superseded")
    );
}

#[tokio::test]
async fn an_unreachable_server_is_an_error() {
    let (context, _) = server(&job(), |_| {
        Some(refusal(500, "InternalError", "etcd is away"))
    });
    let error = look(job(), &context).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("failed to read the FineTuneJob"),
        "{error}"
    );
}

#[tokio::test]
async fn an_adapter_gets_only_the_fields_that_are_the_jobs() {
    let (context, record) = server(&trained_job(), |asked| {
        let there = json!({
            "apiVersion": "finetune.dev/v1alpha1", "kind": "Adapter",
            "metadata": { "name": "support", "namespace": "team-a", "uid": "adapter-uid" },
            "spec": { "serving": [ { "deploymentName": "engine", "engine": { "type": "Finetune", "port": 8000 } } ] }
        });
        (asked.path == ADAPTER_PATH).then_some((200, there))
    });
    look(trained_job(), &context).await.unwrap();
    let writes = record.writes();
    let patch = writes
        .iter()
        .find(|asked| asked.path == ADAPTER_PATH)
        .unwrap();
    // With the UID, an Adapter deleted at this moment is not made anew.
    assert_eq!(patch.body["metadata"]["uid"], "adapter-uid");
    let fields: Vec<_> = patch.body["spec"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(fields, ["baseModel", "provenance", "source"]);
    assert_eq!(patch.body["spec"]["provenance"]["uid"], UID);
    assert_eq!(status_written(&record)["phase"], "Succeeded");
}

#[tokio::test]
async fn an_adapter_that_does_not_parse_is_a_condition_of_the_job_and_not_an_error() {
    let (context, record) = server(&trained_job(), |asked| {
        let there = json!({
            "apiVersion": "finetune.dev/v1alpha1", "kind": "Adapter",
            "metadata": { "name": "support", "namespace": "team-a", "uid": "adapter-uid" },
            "spec": { "serving": [ { "deploymentName": "engine", "engine": { "type": "Later", "port": 8000 } } ] }
        });
        (asked.path == ADAPTER_PATH).then_some((200, there))
    });
    look(trained_job(), &context).await.unwrap();
    let status = status_written(&record);
    assert_eq!(status["phase"], "Publishing");
    assert!(status.to_string().contains("AdapterMalformed"), "{status}");
    assert!(!record.lines().contains(&format!("PATCH {ADAPTER_PATH}")));
}

#[tokio::test]
async fn an_adapter_that_cannot_be_written_leaves_the_job_publishing() {
    let (context, record) = server(&trained_job(), |asked| {
        (asked.method != "GET" && asked.path.starts_with(ADAPTERS_PATH))
            .then(|| refusal(403, "Forbidden", "policy"))
    });
    look(trained_job(), &context).await.unwrap();
    let status = status_written(&record);
    assert_eq!(status["phase"], "Publishing");
    assert!(status.to_string().contains("policy"));
}

#[tokio::test]
async fn a_job_is_deleted_with_its_pods_and_only_if_it_is_the_one_that_was_seen() {
    let (context, record) = server(&prepared_job(), |asked| {
        let train = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {
                "name": "support-train", "namespace": "team-a", "uid": "train-uid",
                "ownerReferences": [
                    { "apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "name": "support", "uid": UID, "controller": true }
                ]
            },
            "status": { "conditions": [ { "type": "Complete", "status": "True" } ] }
        });
        (asked.path == format!("{JOBS_PATH}/support-train")).then_some((200, train))
    });
    look(prepared_job(), &context).await.unwrap();
    let writes = record.writes();
    let delete = writes
        .iter()
        .find(|asked| asked.method == "DELETE")
        .unwrap();
    assert_eq!(delete.body["propagationPolicy"], "Background");
    assert_eq!(delete.body["preconditions"]["uid"], "train-uid");
}

/// A server with a train pod whose node is lost, and its Job; `special` answers first.
fn server_with_a_lost_pod(
    special: impl Fn(&Asked) -> Option<(u16, Value)> + Send + Sync + 'static,
) -> (Arc<Context>, Record) {
    let owner = |kind: &str, name: &str, uid: &str| json!([{ "apiVersion": "finetune.dev/v1alpha1", "kind": kind, "name": name, "uid": uid, "controller": true }]);
    server(&prepared_job(), move |asked| {
        if let Some(answer) = special(asked) {
            return Some(answer);
        }
        let (train, owned) = (
            format!("{JOBS_PATH}/support-train"),
            owner("FineTuneJob", "support", UID),
        );
        let pod = json!({
            "metadata": {
                "name": "support-train-x", "namespace": "team-a", "uid": "pod-uid",
                "deletionTimestamp": "2025-12-31T23:00:00Z", "ownerReferences": owner("Job", "support-train", "train-uid")
            },
            "spec": { "containers": [], "nodeName": "node-1" },
            "status": { "phase": "Running", "containerStatuses": [
                { "name": "trainer", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} } }
            ] }
        });
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", path) if path == train => Some((
                200,
                json!({
                    "apiVersion": "batch/v1", "kind": "Job",
                    "metadata": { "name": "support-train", "namespace": "team-a", "uid": "train-uid", "ownerReferences": owned }
                }),
            )),
            ("GET", "/api/v1/namespaces/team-a/pods") => Some((
                200,
                json!({
                    "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod]
                }),
            )),
            _ => None,
        }
    })
}

#[tokio::test]
async fn a_lost_pod_is_deleted_without_waiting_for_its_node_and_only_that_one() {
    let (context, record) = server_with_a_lost_pod(|_| None);
    look(prepared_job(), &context).await.unwrap();
    let deletions: Vec<_> = record
        .writes()
        .into_iter()
        .filter(|asked| asked.method == "DELETE")
        .collect();
    assert_eq!(deletions.len(), 2, "{deletions:?}");
    assert!(deletions[0].path.ends_with("/pods/support-train-x"));
    assert_eq!(deletions[0].body["gracePeriodSeconds"], 0);
    assert_eq!(deletions[0].body["preconditions"]["uid"], "pod-uid");
    assert!(deletions[1].path.ends_with("/jobs/support-train"));
    assert_eq!(status_written(&record)["reason"], "NodeLost");
}

#[tokio::test]
async fn a_lost_pod_that_could_not_be_deleted_keeps_its_job_by_which_it_is_found_again() {
    let (context, record) = server_with_a_lost_pod(|asked| {
        (asked.method == "DELETE" && asked.path.contains("/pods/"))
            .then(|| refusal(500, "InternalError", "etcd is away"))
    });
    look(prepared_job(), &context).await.unwrap_err();
    let lines = record.lines();
    assert!(
        !lines.contains(&format!("DELETE {JOBS_PATH}/support-train")),
        "{lines:?}"
    );
    assert!(!lines.iter().any(|line| line.ends_with("/status")));
}

#[test]
fn a_refusal_knows_whether_it_was_of_the_adapter() {
    let of_adapter = Refusal {
        what: "the Adapter support".into(),
        message: "no".into(),
        is_final: true,
        of_adapter: true,
    };
    let (status, next_check) =
        super::plan::refused(&trained_job(), &of_adapter, super::fixtures::now());
    assert_eq!(status.phase, Some(JobPhase::Publishing));
    assert!(next_check.is_some());
}
