//! A FineTuneJob for tests.

use finetune_crds::FineTuneJob;

use crate::runtime::Settings;

pub(super) fn settings() -> Settings {
    Settings {
        trainer_image: "trainer:test".to_owned(),
        trainer_image_pull_policy: Some("IfNotPresent".to_owned()),
    }
}

pub(super) fn job() -> FineTuneJob {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {
            "name": "support", "namespace": "team-a", "uid": "uid-1", "generation": 1, "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "team": "support", "kueue.x-k8s.io/queue-name": "gpu" }
        },
        "spec": {
            "baseModel": { "uri": "s3://models/base/", "credentialsSecretRef": { "name": "s3" } },
            "dataset": { "train": [ { "uri": "s3://data/train.jsonl" } ], "credentialsSecretRef": { "name": "data" } },
            "method": { "qlora": {} },
            "output": { "uri": "s3://adapters", "credentialsSecretRef": { "name": "s3" } },
            "placement": {
                "resources": { "requests": { "cpu": "1" }, "limits": { "memory": "3Gi", "nvidia.com/gpu": "1" } },
                "nodeSelector": { "pool": "gpu" },
                "tolerations": [ { "key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule" } ],
                "priorityClassName": "research"
            }
        }
    }))
    .unwrap()
}
