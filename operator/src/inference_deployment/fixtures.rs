//! Objects that several tests start from.

use finetune_crds::adapter::{AdapterSource, AdapterVersion, Engine, Serving};
use finetune_crds::contract::layout::version_name;
use finetune_crds::{Adapter, AdapterSpec};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

/// A moment.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A digest that begins with a letter twelve times.
pub(crate) fn digest(letter: char) -> String {
    format!("sha256:{}", letter.to_string().repeat(64))
}

/// A version of an adapter.
pub(crate) fn version(adapter: &str, letter: char) -> AdapterVersion {
    AdapterVersion {
        version: version_name(adapter, &digest(letter)),
        digest: digest(letter),
        uri: source(letter).uri,
    }
}

/// A published version.
pub(crate) fn source(letter: char) -> AdapterSource {
    AdapterSource {
        uri: format!("s3://adapters/{letter}/"),
        digest: digest(letter),
    }
}

/// An Adapter on the Deployment `server`, with nothing published yet.
pub(crate) fn adapter(name: &str, created: i64) -> Adapter {
    let mut adapter = Adapter::new(
        name,
        AdapterSpec {
            serving: vec![Serving {
                deployment_name: "server".into(),
                engine: Engine {
                    port: 8000,
                    ..Engine::default()
                },
                ..Serving::default()
            }],
            ..AdapterSpec::default()
        },
    );
    adapter.metadata.namespace = Some("team-a".into());
    adapter.metadata.uid = Some(format!("uid-{name}"));
    adapter.metadata.generation = Some(1);
    adapter.metadata.resource_version = Some("7".into());
    adapter.metadata.creation_timestamp = Some(Time(at(created)));
    adapter
}

/// A Deployment that has opted in.
pub(crate) fn deployment() -> Deployment {
    serde_json::from_value(json!({
        "metadata": {
            "name": "server", "namespace": "team-a", "uid": "uid-server", "resourceVersion": "5",
            "labels": {"finetune.dev/adapters": "enabled"},
            "annotations": {"finetune.dev/credentials-secret": "models-s3"},
        },
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "server"}},
            "template": {
                "metadata": {"labels": {"app": "server"}},
                "spec": {"containers": [{"name": "engine", "image": "trainer", "ports": [{"containerPort": 8000}]}]},
            },
        },
    }))
    .unwrap()
}
