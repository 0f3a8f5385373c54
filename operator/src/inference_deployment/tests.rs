//! The reconcile against an API server that records what it is asked.

use std::sync::Arc;

use finetune_crds::names::field_manager;
use finetune_crds::{Adapter, AdapterStatus};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::core::PartialObjectMetaExt;
use serde_json::{Value, json};

use super::fixtures::{adapter, deployment, version};
use super::{config_map_name, reconcile};
use crate::runtime::fake_api::{self, Asked, Record, refusal};
use crate::settings::OperatorSettings;

fn candidate() -> Adapter {
    let mut adapter = adapter("tone", 1);
    adapter.status = Some(AdapterStatus {
        candidate: Some(version("tone", 'a')),
        ..AdapterStatus::default()
    });
    adapter
}

fn pod() -> Value {
    json!({
        "metadata": {
            "name": "server-abc-1", "labels": {"app": "server", "pod-template-hash": "abc"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "server-abc", "uid": "u", "controller": true}
            ],
        },
        "spec": {"containers": [], "initContainers": [{"name": "finetune-agent"}]},
    })
}

/// An API server with `deployment`, one Adapter on it, one pod, and `config_map` if there is one.
async fn run(deployment: &Deployment, config_map: Option<Value>) -> Record {
    let stored = serde_json::to_value(deployment).unwrap();
    let list = |items: Vec<Value>| json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items});
    let (client, record) =
        fake_api::client(
            move |asked: &Asked| match (asked.method.as_str(), asked.path.as_str()) {
                ("GET", "/apis/apps/v1/namespaces/team-a/deployments/server") => {
                    (200, stored.clone())
                }
                ("GET", "/apis/finetune.dev/v1alpha1/namespaces/team-a/adapters") => {
                    (200, list(vec![serde_json::to_value(candidate()).unwrap()]))
                }
                ("GET", "/api/v1/namespaces/team-a/pods") => (200, list(vec![pod()])),
                ("GET", "/api/v1/namespaces/team-a/configmaps/finetune-server") => {
                    match &config_map {
                        Some(config_map) => (200, config_map.clone()),
                        None => refusal(404, "NotFound", "no such ConfigMap"),
                    }
                }
                ("DELETE", _) => (
                    200,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
                ),
                ("PATCH", path) if path.contains("/deployments/") => (200, stored.clone()),
                _ => (200, json!({"metadata": {"name": "x"}})),
            },
        );
    let ctx = Arc::new(fake_api::context(client, OperatorSettings::default()));
    let watched = deployment.metadata.clone().into_response_partial();
    reconcile(Arc::new(watched), ctx).await.unwrap();
    record
}

fn children(record: &Record) -> Vec<Asked> {
    record
        .writes()
        .into_iter()
        .filter(|asked| !asked.path.contains("/events"))
        .collect()
}

fn owned(text: &str) -> Value {
    json!({
        "metadata": {
            "name": "finetune-server",
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "server", "uid": "uid-server", "controller": true}
            ],
        },
        "data": {"desired.json": text},
    })
}

#[tokio::test]
async fn the_config_map_is_there_before_the_agent_and_pods_are_refreshed_after_it() {
    let first = children(&run(&deployment(), None).await);
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(first[0].path.ends_with("/configmaps/finetune-server"));
    assert!(first[1].path.ends_with("/deployments/server"));
    assert!(first.iter().all(|asked| asked.query.contains(&format!(
        "fieldManager={}",
        field_manager::INFERENCE_DEPLOYMENT
    ))));
    let text = first[0].body["data"]["desired.json"].as_str().unwrap();

    let second = children(&run(&deployment(), Some(owned(text))).await);
    assert_eq!(second.len(), 2, "{second:?}");
    assert!(second[1].path.ends_with("/pods/server-abc-1"));
    let digest = finetune_artifacts::digest::of_bytes(text.as_bytes());
    assert_eq!(
        second[1].body["metadata"]["annotations"]["finetune.dev/desired-digest"],
        json!(digest)
    );
}

#[tokio::test]
async fn opting_out_deletes_the_config_map_and_releases_every_field() {
    let mut out = deployment();
    out.metadata.labels = None;
    out.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
        manager: Some(field_manager::INFERENCE_DEPLOYMENT.into()),
        ..ManagedFieldsEntry::default()
    }]);
    let writes = children(&run(&out, Some(owned("{}"))).await);
    assert_eq!(writes.len(), 2, "{writes:?}");
    assert_eq!(writes[0].method, "DELETE");
    assert!(
        writes[1].path.ends_with("/deployments/server") && writes[1].body.get("spec").is_none()
    );
}

#[test]
fn the_config_map_of_a_deployment_with_the_longest_name_has_a_name_of_its_own_that_is_no_longer() {
    let (one, other) = ("a".repeat(252) + "1", "a".repeat(252) + "2");
    assert_eq!(config_map_name("server"), "finetune-server");
    assert_eq!(
        config_map_name(&"a".repeat(244)),
        format!("finetune-{}", "a".repeat(244))
    );
    for name in [&one, &other] {
        assert_eq!(config_map_name(name).len(), 253);
        assert_eq!(config_map_name(name), config_map_name(name));
    }
    assert_ne!(config_map_name(&one), config_map_name(&other));
    // A label must not end where it was cut.
    let dotted = format!("{}-.{}", "a".repeat(231), "b".repeat(20));
    assert!(
        !config_map_name(&dotted).contains("-.-"),
        "{}",
        config_map_name(&dotted)
    );
}

#[tokio::test]
async fn a_deployment_that_never_opted_in_is_not_even_read() {
    let mut stranger = deployment();
    stranger.metadata.labels = None;
    assert!(run(&stranger, None).await.lines().is_empty());
}
