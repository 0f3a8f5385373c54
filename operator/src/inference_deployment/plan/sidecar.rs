//! The patch that puts the agent beside the engine, and the one that takes it away again. Pure.
//!
//! Raw JSON for server-side apply: a typed Deployment would send an empty selector, and own it. Whatever is left out of
//! the next patch, the API server removes; so the bare object restores what its owner wrote.

use finetune_crds::names::{AGENT_CONTAINER, AGENT_PORT_NAME, label, path, port};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PodSpec;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::super::config_map_name;
use super::super::validate::Serving;
use super::pause::{Hook, Pause};
use crate::settings::AgentSettings;

/// The volume with the desired adapters.
const DESIRED_VOLUME: &str = "finetune-desired";
/// The volume with adapter versions.
const ADAPTERS_VOLUME: &str = "finetune-adapters";
/// The volume with the Secret.
const CREDENTIALS_VOLUME: &str = "finetune-credentials";
/// The agent's scratch space.
const SCRATCH_VOLUME: &str = "finetune-scratch";
/// What lies over the pod's token.
const NO_TOKEN_VOLUME: &str = "finetune-no-token";
/// The user that the agent's image names. Not root.
const AGENT_USER: i64 = 65532;
/// Where admission mounts the pod's token, unless something else is there.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The patch that adds the agent. `container` is the engine's.
pub(super) fn add(
    deployment: &Deployment,
    serving: &Serving<'_>,
    container: &str,
    agent: &AgentSettings,
) -> Value {
    let name = deployment.name_any();
    let mut volumes = vec![
        json!({ "name": DESIRED_VOLUME, "configMap": { "name": config_map_name(&name), "optional": true } }),
        json!({ "name": ADAPTERS_VOLUME, "emptyDir": {} }),
        json!({ "name": SCRATCH_VOLUME, "emptyDir": {} }),
        json!({ "name": NO_TOKEN_VOLUME, "emptyDir": {} }),
    ];
    // Optional, so that the agent can say which Secret is missing; a required one would hang the pod without a word.
    volumes.extend(serving.credentials_secret.as_ref().map(
        |secret| json!({ "name": CREDENTIALS_VOLUME, "secret": { "secretName": secret, "optional": true } }),
    ));
    let pod = pod(deployment);
    let pause = Pause::of(deployment, container);
    let mut engine = json!({
        "name": container,
        "volumeMounts": [{ "name": ADAPTERS_VOLUME, "mountPath": path::ADAPTERS, "readOnly": true }],
    });
    if pause.hook == Hook::Ours {
        engine["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": pause.seconds } } });
    }
    let mut patch = bare(deployment);
    patch["spec"] = json!({
        "template": {
            // By this label the controllers watch only pods that concern them.
            "metadata": { "labels": { label::ADAPTERS: label::ADAPTERS_ENABLED } },
            "spec": {
                "initContainers": [agent_container(pod, serving, pause, agent)],
                "containers": [engine],
                "volumes": volumes,
            },
        },
    });
    patch
}

/// The patch that releases everything of ours.
pub(super) fn remove(deployment: &Deployment) -> Value {
    bare(deployment)
}

fn bare(deployment: &Deployment) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        // With the UID, a Deployment that was deleted meanwhile is not created anew.
        "metadata": {
            "name": deployment.name_any(), "namespace": deployment.namespace(), "uid": deployment.uid(),
        },
    })
}

fn pod(deployment: &Deployment) -> Option<&PodSpec> {
    deployment.spec.as_ref()?.template.spec.as_ref()
}

/// The agent: a native sidecar, which starts before the engine and whose readiness counts for the pod.
fn agent_container(
    pod: Option<&PodSpec>,
    serving: &Serving<'_>,
    pause: Pause,
    agent: &AgentSettings,
) -> Value {
    let mut mounts = vec![
        json!({ "name": DESIRED_VOLUME, "mountPath": path::DESIRED, "readOnly": true }),
        json!({ "name": ADAPTERS_VOLUME, "mountPath": path::ADAPTERS }),
        json!({ "name": SCRATCH_VOLUME, "mountPath": "/tmp" }),
        json!({ "name": NO_TOKEN_VOLUME, "mountPath": TOKEN_PATH, "readOnly": true }),
    ];
    let mut args = vec!["agent".to_owned()];
    if let Some(secret) = &serving.credentials_secret {
        let folder = format!("{}/output", path::CREDENTIALS);
        mounts.push(json!({ "name": CREDENTIALS_VOLUME, "mountPath": folder, "readOnly": true }));
        args.extend([
            format!("--credentials={folder}"),
            format!("--credentials-secret={secret}"),
        ]);
    }
    let probe = |path: &str, period: u32, timeout: u32, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": port::AGENT_STATE },
            "periodSeconds": period, "timeoutSeconds": timeout, "failureThreshold": failures,
        })
    };
    let seconds = format!("--pause-seconds={}", pause.seconds);
    let announce = json!(["/usr/local/bin/operator", "pre-stop", seconds]);
    let mut container = json!({
        "name": AGENT_CONTAINER,
        "image": agent.image,
        "restartPolicy": "Always",
        "args": args,
        "ports": [
            { "name": AGENT_PORT_NAME, "containerPort": port::AGENT_PROXY, "protocol": "TCP" },
            { "name": "agent-state", "containerPort": port::AGENT_STATE, "protocol": "TCP" },
        ],
        // One failure is enough: an engine that was restarted has no adapters, and must get no requests until it has
        // them again. A slow answer is none.
        "readinessProbe": probe("/readyz", 2, 5, 1),
        "livenessProbe": probe("/livez", 10, 5, 6),
        "lifecycle": { "preStop": { "exec": { "command": announce } } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": mounts,
    });
    // A pod that runs as root would make the agent root, which it refuses to be. Elsewhere its user is the image's, or the
    // one that the cluster gives the namespace.
    let of_pod = pod.and_then(|pod| pod.security_context.as_ref()?.run_as_user);
    if of_pod == Some(0) {
        container["securityContext"]["runAsUser"] = json!(AGENT_USER);
        container["securityContext"]["runAsGroup"] = json!(AGENT_USER);
    }
    if let Some(policy) = &agent.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    if agent.resources != Value::Null {
        container["resources"] = agent.resources.clone();
    }
    container
}

#[cfg(test)]
mod tests {
    use finetune_crds::adapter::Engine;

    use super::super::super::fixtures::deployment;
    use super::*;

    fn patch(secret: Option<&str>) -> Value {
        let serving = Serving {
            engine: Engine::default(),
            container: Some("engine".into()),
            credentials_secret: secret.map(str::to_owned),
            aliases: Vec::new(),
        };
        let agent = AgentSettings {
            image: "registry/operator:1".into(),
            image_pull_policy: Some("IfNotPresent".into()),
            resources: json!({ "requests": { "cpu": "20m" } }),
        };
        add(&deployment(), &serving, "engine", &agent)
    }

    #[test]
    fn adds_the_agent_beside_the_engine() {
        insta::assert_yaml_snapshot!(patch(Some("models-s3")));
    }

    fn patch_of(change: impl FnOnce(&mut PodSpec)) -> Value {
        let mut deployment = deployment();
        let template = &mut deployment.spec.as_mut().unwrap().template;
        change(template.spec.as_mut().unwrap());
        let serving = Serving {
            engine: Engine::default(),
            container: Some("engine".into()),
            credentials_secret: None,
            aliases: Vec::new(),
        };
        let agent = AgentSettings {
            image: "registry/operator:1".into(),
            image_pull_policy: None,
            resources: Value::Null,
        };
        add(&deployment, &serving, "engine", &agent)
    }

    #[rstest::rstest]
    #[case::ours(None, 10, json!({ "preStop": { "sleep": { "seconds": 5 } } }), "--pause-seconds=5")]
    #[case::ours_in_a_hurry(None, 4, json!({ "preStop": { "sleep": { "seconds": 2 } } }), "--pause-seconds=2")]
    #[case::the_owners(Some(json!({ "sleep": { "seconds": 3 } })), 10, Value::Null, "--pause-seconds=3")]
    fn the_agent_is_told_how_long_the_engine_pauses(
        #[case] hook: Option<Value>,
        #[case] grace: i64,
        #[case] lifecycle: Value,
        #[case] flag: &str,
    ) {
        let patch = patch_of(|pod| {
            pod.termination_grace_period_seconds = Some(grace);
            pod.containers[0].lifecycle =
                serde_json::from_value(json!(hook.map(|hook| json!({ "preStop": hook })))).unwrap();
        });
        let pod = &patch["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0]["lifecycle"], lifecycle);
        let command = &pod["initContainers"][0]["lifecycle"]["preStop"]["exec"]["command"];
        assert_eq!(command[2], flag);
    }

    #[rstest::rstest]
    #[case(Some(0), json!(65532))]
    #[case(Some(1000), Value::Null)]
    #[case(None, Value::Null)]
    fn the_agent_is_no_root_in_a_pod_of_roots_and_else_whom_the_cluster_says(
        #[case] user: Option<i64>,
        #[case] expected: Value,
    ) {
        let patch = patch_of(|pod| {
            pod.security_context = serde_json::from_value(json!({ "runAsUser": user })).unwrap();
        });
        let agent = &patch["spec"]["template"]["spec"]["initContainers"][0]["securityContext"];
        assert_eq!(agent["runAsUser"], expected);
        assert_eq!(agent["runAsGroup"], expected);
        assert_eq!(agent["runAsNonRoot"], json!(true));
    }

    #[test]
    fn mounts_no_secret_that_nobody_named() {
        let text = patch(None).to_string();
        assert!(
            !text.contains(CREDENTIALS_VOLUME) && !text.contains("--credentials"),
            "{text}"
        );
    }

    #[test]
    fn removes_itself_by_naming_nothing() {
        let patch = remove(&deployment());
        let keys: Vec<_> = patch.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["apiVersion", "kind", "metadata"]);
        assert_eq!(patch["metadata"]["uid"], "uid-server");
    }
}
