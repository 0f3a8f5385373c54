//! Whether a Deployment can serve adapters, and in which container its engine is. Pure, and the same for both controllers
//! that ask.

use std::fmt;

use finetune_crds::adapter::Serving;
use finetune_crds::names::{AGENT_CONTAINER, field_manager, label, port};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use kube::ResourceExt;

/// Why a Deployment cannot serve adapters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unusable {
    /// Its owner has not opted in.
    NotOptedIn,
    /// The container that was named is not there.
    NoSuchContainer {
        /// The name.
        wanted: String,
        /// The containers that are there.
        present: String,
    },
    /// Nobody said which of several containers is the engine.
    ContainerNotNamed {
        /// The containers that are there.
        present: String,
    },
    /// A container uses a port of the agent.
    PortTaken {
        /// The port.
        port: i32,
        /// Who uses it.
        by: String,
    },
}

impl Unusable {
    /// A word for a condition.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotOptedIn => "NotOptedIn",
            Self::NoSuchContainer { .. } => "NoSuchContainer",
            Self::ContainerNotNamed { .. } => "ContainerNotNamed",
            Self::PortTaken { .. } => "PortTaken",
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOptedIn => write!(
                f,
                "it has not opted in; its owner does so with the label {}={}",
                label::ADAPTERS,
                label::ADAPTERS_ENABLED
            ),
            Self::NoSuchContainer { wanted, present } => write!(
                f,
                "spec.serving[].containerName is `{wanted}`, expected one of its containers: {present}"
            ),
            Self::ContainerNotNamed { present } => write!(
                f,
                "it has several containers; set spec.serving[].containerName to the engine's: {present}"
            ),
            Self::PortTaken { port, by } => write!(
                f,
                "port {port} is used by {by}, but the agent needs {} and {}; let the engine listen on another",
                port::AGENT_PROXY,
                port::AGENT_STATE
            ),
        }
    }
}

/// Whether its owner wants adapters on it.
pub fn is_opted_in(deployment: &impl ResourceExt) -> bool {
    deployment
        .labels()
        .get(label::ADAPTERS)
        .is_some_and(|value| value == label::ADAPTERS_ENABLED)
}

/// Whether something in it is ours.
pub fn carries_our_fields(deployment: &impl ResourceExt) -> bool {
    deployment
        .managed_fields()
        .iter()
        .any(|entry| entry.manager.as_deref() == Some(field_manager::INFERENCE_DEPLOYMENT))
}

/// The name of the engine's container.
pub fn engine_container(deployment: &Deployment, serving: &Serving) -> Result<String, Unusable> {
    if !is_opted_in(deployment) {
        return Err(Unusable::NotOptedIn);
    }
    let empty = PodSpec::default();
    let pod = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref())
        .unwrap_or(&empty);
    let present = || {
        pod.containers
            .iter()
            .map(|container| container.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let container = match (&serving.container_name, pod.containers.as_slice()) {
        (Some(wanted), containers) => {
            let found = containers
                .iter()
                .find(|container| container.name == *wanted);
            found.ok_or_else(|| Unusable::NoSuchContainer {
                wanted: wanted.clone(),
                present: present(),
            })?
        }
        (None, [only]) => only,
        (None, _) => return Err(Unusable::ContainerNotNamed { present: present() }),
    };
    check_ports(pod, serving)?;
    Ok(container.name.clone())
}

fn check_ports(pod: &PodSpec, serving: &Serving) -> Result<(), Unusable> {
    let agents = [i32::from(port::AGENT_PROXY), i32::from(port::AGENT_STATE)];
    if agents.contains(&serving.engine.port) {
        return Err(Unusable::PortTaken {
            port: serving.engine.port,
            by: "the engine (spec.serving[].engine.port)".to_owned(),
        });
    }
    let taken = |container: &Container| {
        let mut ports = container
            .ports
            .iter()
            .flatten()
            .map(|port| port.container_port);
        ports
            .find(|port| agents.contains(port))
            .map(|port| Unusable::PortTaken {
                port,
                by: format!("container {}", container.name),
            })
    };
    let others = pod
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.name != AGENT_CONTAINER);
    match pod.containers.iter().chain(others).find_map(taken) {
        Some(clash) => Err(clash),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::super::fixtures::{adapter, deployment};
    use super::*;

    #[test]
    fn the_only_container_is_the_engine() {
        let serving = &adapter("tone", 1).spec.serving[0];
        assert_eq!(engine_container(&deployment(), serving).unwrap(), "engine");
    }

    #[rstest]
    #[case::no_label("/metadata/labels", json!({}), "finetune.dev/adapters=enabled")]
    #[case::two_containers("/spec/template/spec/containers", json!([{"name": "a"}, {"name": "b"}]), "a, b")]
    #[case::a_taken_port(
        "/spec/template/spec/containers",
        json!([{"name": "engine", "ports": [{"containerPort": 8481}]}]),
        "port 8481 is used by container engine"
    )]
    fn what_is_wrong_is_named(#[case] pointer: &str, #[case] value: Value, #[case] expected: &str) {
        let mut changed = serde_json::to_value(deployment()).unwrap();
        *changed.pointer_mut(pointer).unwrap() = value;
        let serving = &adapter("tone", 1).spec.serving[0];
        let unusable =
            engine_container(&serde_json::from_value(changed).unwrap(), serving).unwrap_err();
        assert!(unusable.to_string().contains(expected), "{unusable}");
    }

    #[test]
    fn a_container_that_is_not_there_and_an_engine_on_our_port_are_named() {
        let mut serving = adapter("tone", 1).spec.serving.remove(0);
        serving.container_name = Some("nobody".into());
        assert!(
            engine_container(&deployment(), &serving)
                .unwrap_err()
                .to_string()
                .contains("`nobody`")
        );
        serving.container_name = Some("engine".into());
        serving.engine.port = 8482;
        assert!(
            engine_container(&deployment(), &serving)
                .unwrap_err()
                .to_string()
                .contains("port 8482")
        );
    }
}
