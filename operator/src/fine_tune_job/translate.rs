//! Kubernetes objects as the plain data of `seen`. Pure; believes an object to be ours only if its controller's UID says
//! so: a name or a label anybody can write.

use finetune_crds::contract::{Outcome, Stage};
use finetune_crds::names::{GROUP, JOB_FILE_KEY, TRAINER_CONTAINER};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerState, Pod, PodCondition};
use kube::Resource;

use super::seen::{Child, ContainerSeen, JobEnd, JobSeen, ManifestSeen, PodSeen, Terminated};

/// An object that may be a child of the FineTuneJob called `name` with the UID `owner`.
pub(super) fn child<K: Resource, T>(
    object: Option<&K>,
    name: &str,
    owner: &str,
    is: impl FnOnce(&K) -> T,
) -> Child<T> {
    let Some(object) = object else {
        return Child::Absent;
    };
    let meta = object.meta();
    let controller = meta
        .owner_references
        .iter()
        .flatten()
        .find(|reference| reference.controller == Some(true));
    match controller {
        Some(controller) if controller.uid == owner => Child::Ours {
            uid: meta.uid.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            is: is(object),
        },
        // Two FineTuneJobs never have one name at once, so the other one is gone, and what is left of it goes by itself.
        Some(controller)
            if controller.kind == "FineTuneJob"
                && controller.name == name
                && controller.api_version.split('/').next() == Some(GROUP) =>
        {
            Child::Leftover
        }
        Some(controller) => Child::Foreign {
            owner: format!(
                "the {} {} with UID {}",
                controller.kind, controller.name, controller.uid
            ),
        },
        None => Child::Foreign {
            owner: "no controller".to_owned(),
        },
    }
}

/// The ConfigMap with the manifest.
pub(super) fn manifest(config_map: &ConfigMap) -> ManifestSeen {
    ManifestSeen(
        config_map
            .data
            .as_ref()
            .and_then(|data| data.get(JOB_FILE_KEY).cloned()),
    )
}

/// A Job.
pub(super) fn job(job: &Job) -> JobSeen {
    let status = job.status.as_ref();
    let conditions = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let condition = |type_: &str| {
        conditions
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == "True")
    };
    // Complete and Failed come when the last pod has ended; the two that come earlier are not looked at.
    let end = condition("Complete").map(|_| JobEnd::Complete).or_else(|| {
        condition("Failed").map(|failed| JobEnd::Failed {
            reason: failed.reason.clone().unwrap_or_default(),
            message: failed.message.clone().unwrap_or_default(),
        })
    });
    JobSeen {
        end,
        failed: status.and_then(|status| status.failed).unwrap_or_default(),
        backoff_limit: job.spec.as_ref().and_then(|spec| spec.backoff_limit),
        started: status
            .and_then(|status| status.start_time.as_ref())
            .map(|time| time.0),
        created: job.metadata.creation_timestamp.as_ref().map(|time| time.0),
        // The condition stays until the Job controller has seen that the queue let it go, and set a new start.
        suspended: condition("Suspended").is_some()
            || job
                .spec
                .as_ref()
                .and_then(|spec| spec.suspend)
                .unwrap_or_default(),
    }
}

/// A pod of the Job with the UID `job`, which works for the FineTuneJob with the UID `owner`; `None` if it is not one.
pub(super) fn pod(pod: &Pod, stage: Stage, job: &str, owner: &str) -> Option<PodSeen> {
    let controlled = pod
        .metadata
        .owner_references
        .iter()
        .flatten()
        .any(|reference| reference.controller == Some(true) && reference.uid == job);
    if !controlled {
        return None;
    }
    let status = pod.status.as_ref();
    let conditions = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let condition = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
    let text = |condition: &PodCondition| {
        condition
            .message
            .clone()
            .or_else(|| condition.reason.clone())
            .unwrap_or_default()
    };
    let failed = status.and_then(|status| status.phase.as_deref()) == Some("Failed");
    let disruption = condition("DisruptionTarget")
        .filter(|condition| condition.status == "True")
        .map(text)
        .or_else(|| {
            status
                .filter(|_| failed)
                .and_then(|status| status.reason.clone())
        });
    let container = status
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default()
        .iter()
        .find(|container| container.name == TRAINER_CONTAINER)
        .and_then(|container| container.state.as_ref());
    Some(PodSeen {
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        end_due: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        stage,
        created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ip: status.and_then(|status| status.pod_ip.clone()),
        unschedulable: condition("PodScheduled")
            .filter(|condition| condition.status == "False")
            .map(text),
        disruption,
        failed,
        container: container.map_or(ContainerSeen::Unknown, |state| {
            container_seen(state, stage, owner)
        }),
    })
}

fn container_seen(state: &ContainerState, stage: Stage, owner: &str) -> ContainerSeen {
    let instant =
        |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| -> Option<Timestamp> {
            time.as_ref().map(|time| time.0)
        };
    if let Some(terminated) = &state.terminated {
        let message = terminated.message.clone().unwrap_or_default();
        let said = serde_json::from_str::<Outcome>(&message).ok();
        let stranger = said
            .as_ref()
            .filter(|outcome| outcome.stage != stage || outcome.uid != owner)
            .map(|outcome| {
                format!(
                    "the outcome of stage {:?} of a FineTuneJob with UID `{}`, expected stage {stage:?} of UID `{owner}`",
                    outcome.stage,
                    outcome.uid.chars().take(64).collect::<String>()
                )
            });
        let outcome = said.filter(|_| stranger.is_none());
        ContainerSeen::Terminated(Box::new(Terminated {
            exit_code: terminated.exit_code,
            reason: terminated.reason.clone().unwrap_or_default(),
            started: instant(&terminated.started_at),
            finished: instant(&terminated.finished_at),
            message: if outcome.is_some() || stranger.is_some() {
                String::new()
            } else {
                last_lines(&message)
            },
            outcome,
            stranger,
        }))
    } else if let Some(running) = &state.running {
        ContainerSeen::Running {
            started: instant(&running.started_at),
        }
    } else if let Some(waiting) = &state.waiting {
        ContainerSeen::Waiting {
            reason: waiting.reason.clone().unwrap_or_default(),
            message: waiting.message.clone().unwrap_or_default(),
        }
    } else {
        ContainerSeen::Unknown
    }
}

/// The end of a log, short enough for a condition and without what could steer a terminal.
fn last_lines(log: &str) -> String {
    const MOST: usize = 500;
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let tail = lines[lines.len().saturating_sub(3)..].join(" | ");
    let clean: Vec<char> = tail.chars().filter(|c| !c.is_control()).collect();
    clean[clean.len().saturating_sub(MOST)..].iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config_map(kind: &str, name: &str, uid: &str) -> ConfigMap {
        serde_json::from_value(json!({
            "metadata": { "name": "support-manifest", "uid": "child", "ownerReferences": [
                { "apiVersion": "finetune.dev/v1alpha1", "kind": kind, "name": name, "uid": uid, "controller": true }
            ] }
        }))
        .unwrap()
    }

    #[test]
    fn what_an_earlier_job_of_the_same_name_left_is_not_somebody_elses() {
        let seen = |object: &ConfigMap| child(Some(object), "support", "uid-1", |_| ());
        assert!(matches!(
            seen(&config_map("FineTuneJob", "support", "uid-1")),
            Child::Ours { .. }
        ));
        assert_eq!(
            seen(&config_map("FineTuneJob", "support", "uid-0")),
            Child::Leftover
        );
        for (kind, name) in [("FineTuneJob", "other"), ("CronJob", "support")] {
            assert!(matches!(
                seen(&config_map(kind, name, "uid-0")),
                Child::Foreign { .. }
            ));
        }
    }

    #[test]
    fn a_job_that_was_just_let_go_counts_as_held_back_until_its_new_start() {
        let read = |value| job(&serde_json::from_value(value).unwrap());
        let resuming = read(json!({
            "spec": { "suspend": false, "template": {} },
            "status": { "conditions": [ { "type": "Suspended", "status": "True" } ] }
        }));
        assert!(resuming.suspended);
        let resumed = read(json!({
            "spec": { "suspend": false, "template": {} },
            "status": {
                "startTime": "2026-01-01T00:00:00Z",
                "conditions": [ { "type": "Suspended", "status": "False" } ]
            }
        }));
        assert!(!resumed.suspended && resumed.started.is_some());
    }

    #[test]
    fn an_outcome_for_another_job_or_stage_is_named() {
        let seen = |stage: &str, uid: &str| {
            let message = json!({ "stage": stage, "reason": "Succeeded", "uid": uid }).to_string();
            let state: ContainerState = serde_json::from_value(json!({
                "terminated": { "exitCode": 0, "message": message }
            }))
            .unwrap();
            match container_seen(&state, Stage::Train, "uid-1") {
                ContainerSeen::Terminated(terminated) => *terminated,
                other => panic!("{other:?}"),
            }
        };
        assert!(seen("Train", "uid-1").outcome.is_some());
        for (stage, uid) in [("Prepare", "uid-1"), ("Train", "uid-2")] {
            let terminated = seen(stage, uid);
            assert_eq!(terminated.outcome, None);
            let stranger = terminated.stranger.unwrap();
            assert!(
                stranger.contains(uid) && stranger.contains(stage),
                "{stranger}"
            );
        }
    }
}
