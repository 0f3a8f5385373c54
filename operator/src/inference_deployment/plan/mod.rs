//! What is to be done for a Deployment, from what can be done and what was seen. Pure.

mod desired;
mod pause;
mod sidecar;

use std::time::Duration;

use finetune_artifacts::digest;
use finetune_crds::names::{label, path};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::seen::{ConfigMapSeen, Seen};
use super::validate::{Serving, Verdict};
use super::{RESYNC, config_map_name, target};
use crate::agent::desired::Desired;
use crate::settings::AgentSettings;

/// How long to wait for somebody to take a ConfigMap away that has our name.
const FOREIGN_CHECK: Duration = Duration::from_secs(30);

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What becomes of the ConfigMap.
    pub config_map: ConfigMapChange,
    /// The patch of the Deployment.
    pub deployment: Option<Value>,
    /// Pods whose kubelet shall refresh the mounted ConfigMap, and the digest that tells it so.
    pub refresh: Vec<(String, String)>,
    /// What its owner should know.
    pub notice: Option<Notice>,
    /// When to look again.
    pub next_check: Option<Duration>,
}

/// What becomes of the ConfigMap.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ConfigMapChange {
    /// It stays.
    #[default]
    Keep,
    /// It is written.
    Apply(Value),
    /// It goes.
    Delete,
}

/// What the owner of a Deployment should know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Notice {
    /// The agent comes, with a rolling update.
    AgentAdded,
    /// The agent goes, with a rolling update.
    AgentRemoved,
    /// A ConfigMap that is not ours has the name that ours needs.
    ConfigMapTaken,
}

/// Decides.
pub fn plan(
    deployment: &Deployment,
    verdict: &Verdict<'_>,
    seen: &Seen,
    agent: &AgentSettings,
) -> Plan {
    match verdict {
        Verdict::Waiting => Plan {
            next_check: Some(RESYNC),
            ..Plan::default()
        },
        Verdict::OptedOut => opt_out(deployment, seen),
        Verdict::Serving(_) if seen.config_map == ConfigMapSeen::Foreign => Plan {
            notice: Some(Notice::ConfigMapTaken),
            next_check: Some(FOREIGN_CHECK),
            ..Plan::default()
        },
        Verdict::Serving(serving) => serve(deployment, serving, seen, agent),
    }
}

fn opt_out(deployment: &Deployment, seen: &Seen) -> Plan {
    if !target::carries_our_fields(deployment) {
        return Plan::default();
    }
    Plan {
        config_map: match seen.config_map {
            ConfigMapSeen::Ours { .. } => ConfigMapChange::Delete,
            ConfigMapSeen::Absent | ConfigMapSeen::Foreign => ConfigMapChange::Keep,
        },
        deployment: Some(sidecar::remove(deployment)),
        notice: Some(Notice::AgentRemoved),
        ..Plan::default()
    }
}

fn serve(
    deployment: &Deployment,
    serving: &Serving<'_>,
    seen: &Seen,
    agent: &AgentSettings,
) -> Plan {
    let before = seen.config_map.desired();
    let desired = desired::desired(&deployment.name_any(), serving, before, &seen.malformed);
    let text = text(&desired);
    let is_told =
        matches!(&seen.config_map, ConfigMapSeen::Ours { text: told, .. } if *told == text);
    let first = !target::carries_our_fields(deployment);
    Plan {
        refresh: if is_told {
            refresh(&text, seen)
        } else {
            Vec::new()
        },
        config_map: if is_told {
            ConfigMapChange::Keep
        } else {
            ConfigMapChange::Apply(config_map(deployment, &text))
        },
        deployment: serving
            .container
            .as_ref()
            .map(|container| sidecar::add(deployment, serving, container, agent)),
        notice: (first && serving.container.is_some()).then_some(Notice::AgentAdded),
        next_check: Some(RESYNC),
    }
}

/// Only after the new ConfigMap came back from the API server: a kubelet that is asked earlier may mount the old one, and
/// would not look again for a minute.
fn refresh(text: &str, seen: &Seen) -> Vec<(String, String)> {
    let digest = digest::of_bytes(text.as_bytes());
    let stale = seen
        .pods
        .iter()
        .filter(|pod| pod.desired_digest.as_ref() != Some(&digest));
    stale
        .map(|pod| (pod.name.clone(), digest.clone()))
        .collect()
}

/// As people can read it too.
fn text(desired: &Desired) -> String {
    // Strings, numbers and unit variants: nothing in it can fail to serialise.
    serde_json::to_string_pretty(desired).unwrap_or_default()
}

fn config_map(deployment: &Deployment, text: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": config_map_name(&deployment.name_any()),
            "namespace": deployment.namespace(),
            "labels": { label::MANAGED_BY: label::MANAGED_BY_VALUE, label::COMPONENT: "agent" },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "Deployment", "name": deployment.name_any(), "uid": deployment.uid(),
                "controller": true,
            }],
        },
        "data": { path::DESIRED_FILE: text },
    })
}

#[cfg(test)]
mod tests {
    use finetune_crds::AdapterStatus;
    use finetune_crds::names::field_manager;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;

    use super::super::fixtures::{adapter, deployment, version};
    use super::super::seen::PodSeen;
    use super::super::validate::validate;
    use super::*;

    fn agent() -> AgentSettings {
        AgentSettings {
            image: "operator".into(),
            image_pull_policy: None,
            resources: Value::Null,
        }
    }

    fn planned(deployment: &Deployment, seen: &Seen) -> Plan {
        plan(deployment, &validate(deployment, seen), seen, &agent())
    }

    fn served() -> Seen {
        let mut adapter = adapter("tone", 1);
        adapter.status = Some(AdapterStatus {
            candidate: Some(version("tone", 'a')),
            ..AdapterStatus::default()
        });
        Seen {
            adapters: vec![adapter],
            pods: vec![PodSeen {
                name: "server-1".into(),
                desired_digest: None,
            }],
            ..Seen::default()
        }
    }

    /// What the next look finds once `plan` was carried out.
    fn after(plan: &Plan, seen: &Seen) -> Seen {
        let mut seen = seen.clone();
        match &plan.config_map {
            ConfigMapChange::Keep => {}
            ConfigMapChange::Delete => seen.config_map = ConfigMapSeen::Absent,
            ConfigMapChange::Apply(object) => {
                let text = object["data"]["desired.json"].as_str().unwrap().to_owned();
                let desired = Some(Desired::parse(text.as_bytes()).unwrap());
                seen.config_map = ConfigMapSeen::Ours { text, desired };
            }
        }
        for (name, digest) in &plan.refresh {
            let pod = seen.pods.iter_mut().find(|pod| pod.name == *name).unwrap();
            pod.desired_digest = Some(digest.clone());
        }
        seen
    }

    fn ours(mut deployment: Deployment) -> Deployment {
        deployment.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
            manager: Some(field_manager::INFERENCE_DEPLOYMENT.into()),
            ..ManagedFieldsEntry::default()
        }]);
        deployment
    }

    #[test]
    fn tells_the_agents_then_refreshes_the_mount_then_rests() {
        let seen = served();
        let first = planned(&deployment(), &seen);
        assert_eq!(first.notice, Some(Notice::AgentAdded));
        assert!(first.deployment.is_some() && first.refresh.is_empty());
        assert!(matches!(first.config_map, ConfigMapChange::Apply(_)));

        let seen = after(&first, &seen);
        let second = planned(&ours(deployment()), &seen);
        assert_eq!(
            (second.refresh.len(), &second.config_map),
            (1, &ConfigMapChange::Keep)
        );

        let third = planned(&ours(deployment()), &after(&second, &seen));
        assert_eq!(
            (third.refresh, third.config_map, third.notice),
            (vec![], ConfigMapChange::Keep, None)
        );
    }

    #[test]
    fn an_opted_in_deployment_that_no_adapter_names_is_left_alone() {
        let idle = Plan {
            next_check: Some(RESYNC),
            ..Plan::default()
        };
        assert_eq!(planned(&deployment(), &Seen::default()), idle);
    }

    #[test]
    fn a_deployment_that_serves_is_looked_at_again_though_nothing_is_heard() {
        let seen = served();
        let plan = planned(
            &ours(deployment()),
            &after(&planned(&deployment(), &seen), &seen),
        );
        assert_eq!(plan.next_check, Some(RESYNC));
    }

    #[test]
    fn an_adapter_that_does_not_parse_any_more_goes_on_answering_until_it_is_deleted() {
        let mut seen = served();
        let mut other = adapter("other", 2);
        other.status = Some(AdapterStatus {
            candidate: Some(version("other", 'b')),
            ..AdapterStatus::default()
        });
        seen.adapters.push(other);
        let told = after(&planned(&deployment(), &seen), &seen);
        for others in [1, 0] {
            let mut seen = told.clone();
            seen.adapters.remove(0);
            seen.adapters.truncate(others);
            seen.malformed = vec!["tone".into()];
            let plan = planned(&ours(deployment()), &seen);
            let now = after(&plan, &seen);
            let versions = now.config_map.desired().unwrap().versions();
            let is_told = versions
                .iter()
                .any(|version| version.version == "tone@aaaaaaaaaaaa");
            assert!(is_told, "{versions:?}");
            // Nor does that change from look to look.
            let again = planned(&ours(deployment()), &now);
            assert_eq!(again.config_map, ConfigMapChange::Keep);
            let mut gone = now;
            gone.malformed.clear();
            let last = after(&planned(&ours(deployment()), &gone), &gone);
            assert_eq!(last.config_map.desired().unwrap().adapters.len(), others);
        }
    }

    #[test]
    fn the_last_adapter_leaves_without_a_rolling_update() {
        let seen = served();
        let mut seen = after(&planned(&deployment(), &seen), &seen);
        seen.adapters.clear();
        let plan = planned(&ours(deployment()), &seen);
        assert_eq!(plan.deployment, None);
        let seen = after(&plan, &seen);
        let desired = seen.config_map.desired().unwrap();
        assert_eq!((desired.engine.port, desired.adapters.len()), (8000, 0));
    }

    #[test]
    fn opting_out_takes_everything_of_ours_away_and_opting_out_twice_does_nothing() {
        let seen = served();
        let seen = after(&planned(&deployment(), &seen), &seen);
        let mut out = ours(deployment());
        out.metadata.labels = None;
        let plan = planned(&out, &seen);
        assert_eq!(plan.config_map, ConfigMapChange::Delete);
        assert!(
            plan.deployment
                .is_some_and(|patch| patch.get("spec").is_none())
        );
        out.metadata.managed_fields = None;
        assert_eq!(planned(&out, &Seen::default()), Plan::default());
    }

    #[test]
    fn a_foreign_config_map_is_not_overwritten() {
        let seen = Seen {
            config_map: ConfigMapSeen::Foreign,
            ..served()
        };
        let plan = planned(&deployment(), &seen);
        assert_eq!(
            (plan.notice, plan.config_map),
            (Some(Notice::ConfigMapTaken), ConfigMapChange::Keep)
        );
        assert_eq!(plan.deployment, None);
    }

    #[test]
    fn only_the_older_of_two_claims_is_served() {
        let mut seen = served();
        let mut younger = seen.adapters[0].clone();
        younger.metadata.name = Some("other".into());
        younger.metadata.creation_timestamp = adapter("other", 99).metadata.creation_timestamp;
        younger.spec.serving[0].alias = Some("tone".into());
        younger.status.as_mut().unwrap().candidate = Some(version("other", 'b'));
        seen.adapters.push(younger);
        let seen = after(&planned(&deployment(), &seen), &seen);
        let names: Vec<_> = seen
            .config_map
            .desired()
            .unwrap()
            .versions()
            .iter()
            .map(|v| v.version.clone())
            .collect();
        assert_eq!(names, ["tone@aaaaaaaaaaaa"]);
    }
}
