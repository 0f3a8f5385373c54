//! Carries a plan out. Everything here can be repeated: what exists already, or is gone already, is as wanted.
//!
//! RBAC: `patch` and `delete` configmaps; `patch` deployments, pods.

use std::time::Duration;

use finetune_crds::names::{annotation, field_manager};
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::config_map_name;
use super::plan::{ConfigMapChange, Notice, Plan};
use crate::runtime::{Context, Error};

/// Pods patched at once.
const PATCHES_AT_ONCE: usize = 8;

/// What became of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// What its owner should know.
    pub notice: Option<Notice>,
    /// When to look again.
    pub next_check: Option<Duration>,
}

/// Carries `plan` out for `deployment`.
pub async fn apply(ctx: &Context, deployment: &Deployment, plan: Plan) -> Result<Applied, Error> {
    let Plan {
        config_map,
        deployment: patch,
        refresh,
        notice,
        next_check,
    } = plan;
    let namespace = deployment.namespace().unwrap_or_default();
    let name = deployment.name_any();
    let parameters = PatchParams::apply(field_manager::INFERENCE_DEPLOYMENT).force();
    // The ConfigMap first, both ways: a pod that starts finds it, and after an opt-out that broke off, the Deployment
    // still carries our fields, so that it is looked at again.
    change_config_map(ctx, &namespace, &name, config_map, &parameters).await?;
    if let Some(patch) = patch {
        let deployments: Api<Deployment> = Api::namespaced(ctx.client.clone(), &namespace);
        deployments
            .patch(
                &name,
                &parameters.clone().validation_strict(),
                &Patch::Apply(&patch),
            )
            .await
            .map_err(Error::cluster("apply the agent to the Deployment"))?;
    }
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    let mut patches = stream::iter(refresh)
        .map(|(pod, digest)| {
            let pods = &pods;
            async move { refresh_mount(pods, &pod, &digest).await }
        })
        .buffer_unordered(PATCHES_AT_ONCE);
    while let Some(outcome) = patches.next().await {
        outcome?;
    }
    Ok(Applied { notice, next_check })
}

async fn change_config_map(
    ctx: &Context,
    namespace: &str,
    deployment: &str,
    change: ConfigMapChange,
    parameters: &PatchParams,
) -> Result<(), Error> {
    let config_maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    let name = config_map_name(deployment);
    match change {
        ConfigMapChange::Keep => Ok(()),
        ConfigMapChange::Apply(object) => config_maps
            .patch(
                &name,
                &parameters.clone().validation_strict(),
                &Patch::Apply(&object),
            )
            .await
            .map(drop)
            .map_err(Error::cluster("write the Deployment's ConfigMap")),
        ConfigMapChange::Delete => {
            match config_maps.delete(&name, &DeleteParams::default()).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
                Err(error) => Err(Error::cluster("delete the Deployment's ConfigMap")(error)),
            }
        }
    }
}

/// Any change of a pod makes its kubelet look at the pod's mounts at once.
async fn refresh_mount(pods: &Api<Pod>, pod: &str, digest: &str) -> Result<(), Error> {
    let patch = json!({ "metadata": { "annotations": { annotation::DESIRED_DIGEST: digest } } });
    match pods
        .patch_metadata(pod, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => Err(Error::cluster("refresh a pod's mount")(error)),
    }
}
