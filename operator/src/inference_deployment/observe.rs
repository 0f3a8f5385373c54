//! Looks at the Deployment, the Adapters of its namespace, its ConfigMap and its pods. Writes nothing.
//!
//! RBAC: `get` deployments, configmaps; `list` adapters, pods.

use std::collections::BTreeMap;

use finetune_crds::Adapter;
use finetune_crds::names::{annotation, path};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::ListParams;
use kube::core::{DeserializeGuard, Selector};
use kube::{Api, ResourceExt};

use super::seen::{ConfigMapSeen, PodSeen, Seen};
use super::{config_map_name, pods, target};
use crate::agent::desired::Desired;
use crate::runtime::{Context, Error};

/// The Deployment as the API server has it now, and what belongs to it; `None` if it is none of our business.
pub async fn observe(
    ctx: &Context,
    watched: &impl ResourceExt,
) -> Result<Option<(Deployment, Seen)>, Error> {
    if !target::is_opted_in(watched) && !target::carries_our_fields(watched) {
        return Ok(None);
    }
    let (Some(namespace), name) = (watched.namespace(), watched.name_any()) else {
        return Ok(None);
    };
    let deployments: Api<Deployment> = Api::namespaced(ctx.client.clone(), &namespace);
    let deployment = deployments
        .get_opt(&name)
        .await
        .map_err(Error::cluster("read the Deployment"))?;
    let Some(deployment) =
        deployment.filter(|deployment| deployment.metadata.deletion_timestamp.is_none())
    else {
        return Ok(None);
    };
    let config_maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &namespace);
    let config_map = config_maps
        .get_opt(&config_map_name(&name))
        .await
        .map_err(Error::cluster("read the Deployment's ConfigMap"))?;
    let pods = list_pods(ctx, &namespace, &deployment).await?;
    let (adapters, malformed) = list_adapters(ctx, &namespace).await?;
    let seen = Seen {
        adapters,
        malformed,
        config_map: config_map.map_or(ConfigMapSeen::Absent, |found| {
            config_map_seen(&found, &deployment)
        }),
        pods: pods
            .iter()
            .filter(|pod| pods::has_agent(pod))
            .map(pod_seen)
            .collect(),
    };
    Ok(Some((deployment, seen)))
}

/// All Adapters of a namespace: those that parse, and the names of the others, which must not stop them.
pub async fn list_adapters(
    ctx: &Context,
    namespace: &str,
) -> Result<(Vec<Adapter>, Vec<String>), Error> {
    let adapters: Api<DeserializeGuard<Adapter>> = Api::namespaced(ctx.client.clone(), namespace);
    let adapters = adapters
        .list(&ListParams::default())
        .await
        .map_err(Error::cluster("list the Adapters of the namespace"))?;
    let (mut parsed, mut malformed) = (Vec::new(), Vec::new());
    for guard in adapters.items {
        match guard.0 {
            Ok(adapter) => parsed.push(adapter),
            Err(invalid) if invalid.metadata.deletion_timestamp.is_none() => {
                malformed.extend(invalid.metadata.name);
            }
            Err(_) => {}
        }
    }
    Ok((parsed, malformed))
}

/// The pods of a Deployment that are there to stay, by name.
pub async fn list_pods(
    ctx: &Context,
    namespace: &str,
    deployment: &Deployment,
) -> Result<Vec<Pod>, Error> {
    let selector = deployment
        .spec
        .as_ref()
        .map(|spec| spec.selector.clone())
        .unwrap_or_default();
    // The API server has accepted the selector, so that it always parses; an empty one would match everything.
    let Some(selector) = Selector::try_from(selector)
        .ok()
        .filter(|selector| !selector.to_string().is_empty())
    else {
        return Ok(Vec::new());
    };
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    let mut pods = pods
        .list(&ListParams::default().labels_from(&selector))
        .await
        .map_err(Error::cluster("list the pods of the Deployment"))?
        .items;
    let name = deployment.name_any();
    pods.retain(|pod| pods::is_of(pod, &name));
    pods.sort_by_key(ResourceExt::name_any);
    Ok(pods)
}

fn config_map_seen(config_map: &ConfigMap, deployment: &Deployment) -> ConfigMapSeen {
    let mut owners = config_map.owner_references().iter();
    if !owners.any(|owner| {
        owner.controller == Some(true) && Some(&owner.uid) == deployment.metadata.uid.as_ref()
    }) {
        return ConfigMapSeen::Foreign;
    }
    let nothing = BTreeMap::new();
    let data = config_map.data.as_ref().unwrap_or(&nothing);
    let text = data.get(path::DESIRED_FILE).cloned().unwrap_or_default();
    ConfigMapSeen::Ours {
        desired: Desired::parse(text.as_bytes()).ok(),
        text,
    }
}

fn pod_seen(pod: &Pod) -> PodSeen {
    PodSeen {
        name: pod.name_any(),
        desired_digest: pod.annotations().get(annotation::DESIRED_DIGEST).cloned(),
    }
}
