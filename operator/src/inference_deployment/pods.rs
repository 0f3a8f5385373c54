//! Which pods are whose, and which carry the agent. Pure.

use finetune_crds::names::AGENT_CONTAINER;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// The label by which a Deployment tells its ReplicaSets' pods apart.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// The name of the Deployment that a pod belongs to, by way of a ReplicaSet.
pub fn deployment_of(pod: &impl ResourceExt) -> Option<String> {
    let hash = pod.labels().get(POD_TEMPLATE_HASH)?;
    let mut owners = pod.owner_references().iter();
    let owner =
        owners.find(|owner| owner.controller == Some(true) && owner.kind == "ReplicaSet")?;
    owner
        .name
        .strip_suffix(hash.as_str())?
        .strip_suffix('-')
        .map(str::to_owned)
}

/// Whether a pod of `deployment` is there to stay.
pub fn is_of(pod: &Pod, deployment: &str) -> bool {
    pod.metadata.deletion_timestamp.is_none() && deployment_of(pod).as_deref() == Some(deployment)
}

/// Whether the agent runs beside its engine.
pub fn has_agent(pod: &Pod) -> bool {
    let containers = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.init_containers.as_ref());
    containers
        .into_iter()
        .flatten()
        .any(|container| container.name == AGENT_CONTAINER)
}

/// Whether its containers were started.
pub fn is_running(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        == Some("Running")
}

/// Whether requests are sent to it.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_traced_to_its_deployment_and_not_to_one_with_a_longer_name() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {
            "name": "server-blue-abc-x", "labels": {"pod-template-hash": "abc"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "server-blue-abc", "uid": "u", "controller": true}
            ],
        }}))
        .unwrap();
        assert_eq!(deployment_of(&pod).as_deref(), Some("server-blue"));
        assert!(is_of(&pod, "server-blue") && !is_of(&pod, "server"));
    }
}
