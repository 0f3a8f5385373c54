//! Looks at the Adapter, its rivals, the Deployments that it names, and asks the agent of each running pod. Writes nothing.
//!
//! RBAC: `get` adapters, deployments; `list` adapters, pods.

use std::time::Duration;

use finetune_crds::Adapter;
use finetune_crds::adapter::Serving;
use finetune_crds::names::port;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};

use super::seen::{AgentSeen, PodSeen, Seen, TargetSeen};
use crate::agent::state::State;
use crate::inference_deployment::observe::{list_adapters, list_pods};
use crate::inference_deployment::pods;
use crate::runtime::{Context, Error};

/// Several Adapters on one Deployment ask the same agents: one answer serves them all.
const STATE_AGE: Duration = Duration::from_millis(500);

/// The Adapter as the API server has it now, and what belongs to it; `None` if it is gone.
///
/// The watch's copy may be older than our own last write. Decisions rest on what was recorded, so they need the newest.
pub async fn observe(ctx: &Context, watched: &Adapter) -> Result<Option<(Adapter, Seen)>, Error> {
    let (Some(namespace), name) = (watched.namespace(), watched.name_any()) else {
        return Ok(None);
    };
    let api: Api<DeserializeGuard<Adapter>> = Api::namespaced(ctx.client.clone(), &namespace);
    // One that does not parse any more comes by the watch, and is told of there.
    let Some(DeserializeGuard(Ok(adapter))) = api
        .get_opt(&name)
        .await
        .map_err(Error::cluster("read the Adapter"))?
    else {
        return Ok(None);
    };
    let mut seen = Seen {
        adapters: list_adapters(ctx, &namespace).await?.0,
        targets: Vec::new(),
    };
    for serving in &adapter.spec.serving {
        seen.targets.push(target(ctx, &namespace, serving).await?);
    }
    Ok(Some((adapter, seen)))
}

async fn target(ctx: &Context, namespace: &str, serving: &Serving) -> Result<TargetSeen, Error> {
    let deployments: Api<Deployment> = Api::namespaced(ctx.client.clone(), namespace);
    let deployment = deployments
        .get_opt(&serving.deployment_name)
        .await
        .map_err(Error::cluster("read a Deployment of the Adapter"))?
        .filter(|deployment| deployment.metadata.deletion_timestamp.is_none());
    let pods = match &deployment {
        Some(deployment) => list_pods(ctx, namespace, deployment).await?,
        None => Vec::new(),
    };
    let running = pods.iter().filter(|pod| pods::is_running(pod));
    // The reader bounds how many are asked at once.
    let pods = join_all(running.map(|pod| pod_seen(ctx, pod))).await;
    Ok(TargetSeen {
        serving: serving.clone(),
        deployment,
        pods,
    })
}

async fn pod_seen(ctx: &Context, pod: &Pod) -> PodSeen {
    PodSeen {
        name: pod.name_any(),
        ready: pods::is_ready(pod),
        agent: if pods::has_agent(pod) {
            ask(ctx, pod).await
        } else {
            AgentSeen::Absent
        },
    }
}

async fn ask(ctx: &Context, pod: &Pod) -> AgentSeen {
    let Some(address) = pod
        .status
        .as_ref()
        .and_then(|status| status.pod_ip.as_deref())
    else {
        return AgentSeen::Silent("has no address yet".to_owned());
    };
    let name = pod.name_any();
    let read = ctx
        .pods
        .read::<State>(&name, address, port::AGENT_STATE, "/state", STATE_AGE);
    match read.await {
        Ok(state) => AgentSeen::Speaks(Box::new(state)),
        Err(problem) => AgentSeen::Silent(problem),
    }
}
