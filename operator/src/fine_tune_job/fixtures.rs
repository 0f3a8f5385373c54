//! A FineTuneJob, what may be seen of it, and shorthands for changing both. For tests only.

use finetune_crds::FineTuneJob;
use finetune_crds::contract::{Outcome, OutcomeReason, Progress, Published, RunPhase, Stage};
use finetune_crds::fine_tune_job::{BaseModelStatus, DatasetStatus, PlanStatus};
use jiff::Timestamp;

use super::plan::{Plan, plan};
use super::seen::{Child, ContainerSeen, JobEnd, JobSeen, ManifestSeen, PodSeen, Seen, Terminated};
use super::validate::validate;
use crate::settings::OperatorSettings;

pub(super) const UID: &str = "uid-1";

pub(super) fn settings() -> OperatorSettings {
    OperatorSettings {
        trainer_image: "trainer:test".to_owned(),
        trainer_image_pull_policy: Some("IfNotPresent".to_owned()),
        ..OperatorSettings::default()
    }
}

pub(super) fn now() -> Timestamp {
    Timestamp::from_second(1_767_225_600).unwrap()
}

pub(super) fn job() -> FineTuneJob {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {
            "name": "support", "namespace": "team-a", "uid": UID, "generation": 1, "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "team": "support", "kueue.x-k8s.io/queue-name": "gpu" }
        },
        "spec": {
            "baseModel": { "uri": "s3://models/base/", "credentialsSecretRef": { "name": "s3" } },
            "dataset": { "train": [ { "uri": "s3://data/train.jsonl" } ], "credentialsSecretRef": { "name": "data" } },
            "method": { "qlora": {} },
            "output": { "uri": "s3://adapters", "credentialsSecretRef": { "name": "s3" } },
            "placement": {
                "resources": { "requests": { "cpu": "1" }, "limits": { "memory": "3Gi", "vendor.example/device": "1" } },
                "nodeSelector": { "pool": "gpu" },
                "tolerations": [ { "key": "vendor.example/device", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60 } ],
                "priorityClassName": "research"
            }
        }
    }))
    .unwrap()
}

/// The plan for a job, as reconcile makes it.
pub(super) fn plan_for(job: &FineTuneJob, seen: &Seen) -> Plan {
    plan(job, &validate(job), seen, &settings(), now())
}

/// The job after its plan's status was stored.
pub(super) fn stored(mut job: FineTuneJob, plan: &Plan) -> FineTuneJob {
    job.status = Some(plan.status.clone());
    job
}

/// A job whose data is known to be valid.
pub(super) fn prepared_job() -> FineTuneJob {
    let seen = Seen {
        config_map: ours(manifest()),
        prepare: ours(JobSeen::default()),
        pods: vec![ended(
            Stage::Prepare,
            0,
            Some(outcome(Stage::Prepare, OutcomeReason::Succeeded)),
        )],
        ..Seen::default()
    };
    stored(job(), &plan_for(&job(), &seen))
}

/// A job whose result is recorded.
pub(super) fn trained_job() -> FineTuneJob {
    let pod = ended(
        Stage::Train,
        0,
        Some(outcome(Stage::Train, OutcomeReason::Succeeded)),
    );
    let job = prepared_job();
    let plan = plan_for(&job, &train_seen(complete(), vec![pod]));
    stored(job, &plan)
}

/// What the ConfigMap of [`job`] holds.
pub(super) fn manifest() -> ManifestSeen {
    manifest_of(&job())
}

pub(super) fn manifest_of(job: &FineTuneJob) -> ManifestSeen {
    let valid = validate(job).unwrap();
    super::translate::manifest(&super::plan::config_map::config_map(&valid))
}

pub(super) fn ours<T>(is: T) -> Child<T> {
    Child::Ours {
        uid: "child-uid".to_owned(),
        deleting: false,
        is,
    }
}

pub(super) fn complete() -> JobSeen {
    JobSeen {
        end: Some(JobEnd::Complete),
        ..JobSeen::default()
    }
}

pub(super) fn failed(reason: &str, failed: i32) -> JobSeen {
    JobSeen {
        end: Some(JobEnd::Failed {
            reason: reason.to_owned(),
            message: "the Job controller's words".to_owned(),
        }),
        failed,
        ..JobSeen::default()
    }
}

pub(super) fn train_seen(train: JobSeen, pods: Vec<PodSeen>) -> Seen {
    Seen {
        config_map: ours(manifest()),
        prepare: ours(complete()),
        train: ours(train),
        pods,
        ..Seen::default()
    }
}

pub(super) fn prepare_seen(prepare: JobSeen, pods: Vec<PodSeen>) -> Seen {
    Seen {
        config_map: ours(manifest()),
        prepare: ours(prepare),
        pods,
        ..Seen::default()
    }
}

pub(super) fn pod(stage: Stage, container: ContainerSeen) -> PodSeen {
    PodSeen {
        name: "pod-1".to_owned(),
        uid: "pod-uid-1".to_owned(),
        node: Some("node-1".to_owned()),
        end_due: None,
        stage,
        created: Some(now()),
        ip: Some("10.0.0.9".to_owned()),
        unschedulable: None,
        disruption: None,
        failed: false,
        container,
    }
}

pub(super) fn running(stage: Stage) -> PodSeen {
    pod(
        stage,
        ContainerSeen::Running {
            started: Some(now()),
        },
    )
}

pub(super) fn waiting(stage: Stage, reason: &str) -> PodSeen {
    let container = ContainerSeen::Waiting {
        reason: reason.to_owned(),
        message: "said the kubelet".to_owned(),
    };
    pod(stage, container)
}

pub(super) fn ended(stage: Stage, exit_code: i32, outcome: Option<Outcome>) -> PodSeen {
    let container = ContainerSeen::Terminated(Box::new(Terminated {
        exit_code,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        started: Some(now()),
        finished: Some(now()),
        outcome,
        message: String::new(),
        stranger: None,
    }));
    PodSeen {
        failed: exit_code != 0,
        ..pod(stage, container)
    }
}

pub(super) fn out_of_memory(name: &str) -> PodSeen {
    let container = ContainerSeen::Terminated(Box::new(Terminated {
        exit_code: 137,
        reason: "OOMKilled".to_owned(),
        ..Terminated::default()
    }));
    PodSeen {
        name: name.to_owned(),
        ..pod(Stage::Train, container)
    }
}

pub(super) fn digest(of: char) -> String {
    format!("sha256:{}", of.to_string().repeat(64))
}

pub(super) fn outcome(stage: Stage, reason: OutcomeReason) -> Outcome {
    let good = reason == OutcomeReason::Succeeded;
    Outcome {
        stage,
        reason,
        message: if good {
            String::new()
        } else {
            format!("{} happened; do this", reason.as_str())
        },
        field: None,
        uid: UID.to_owned(),
        spec_digest: job().spec.digest(),
        version: None,
        attempt: 1,
        adapter: (good && stage == Stage::Train).then(|| Published {
            uri: format!(
                "s3://adapters/team-a/support/{}/",
                digest('a').replace(':', "-")
            ),
            digest: digest('a'),
        }),
        model: None,
        gguf_adapter: None,
        dataset: (good && stage == Stage::Prepare).then(|| DatasetStatus {
            digest: digest('d'),
            rows: 150,
            validation_rows: 15,
            tokens: 7500,
            trainable_tokens: 3000,
            ..DatasetStatus::default()
        }),
        base_model: good.then(|| BaseModelStatus {
            identity: Some("identity".to_owned()),
            digest: (stage == Stage::Train).then(|| digest('b')),
            ..BaseModelStatus::default()
        }),
        plan: (good && stage == Stage::Prepare).then(|| PlanStatus {
            method: "qlora".to_owned(),
            total_steps: 100,
            ..PlanStatus::default()
        }),
        progress: (good && stage == Stage::Train).then(|| progress(RunPhase::Publishing, 100)),
        warnings: Vec::new(),
    }
}

pub(super) fn progress(phase: RunPhase, step: u64) -> Progress {
    Progress {
        uid: UID.to_owned(),
        attempt: 1,
        phase,
        step,
        total_steps: 100,
        loss: Some(1.5),
        eta_seconds: Some(100 - step),
        ..Progress::default()
    }
}
