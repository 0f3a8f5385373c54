//! Drives one inference Deployment: `observe -> validate -> plan -> apply -> report`.
//!
//! It is the only writer of the Deployment's agent and of the ConfigMap that tells its agents what to serve, computed from
//! all Adapters that name the Deployment; so two Adapters on one Deployment cannot race. What no Adapter names any more is dropped, however
//! the Adapter went. `validate` and `plan` are pure.
//!
//! RBAC: `list` and `watch` deployments, configmaps, adapters, pods.

pub mod apply;
pub mod claims;
pub mod observe;
pub mod plan;
pub mod pods;
pub mod report;
pub mod seen;
pub mod target;
pub mod validate;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use finetune_artifacts::digest;
use finetune_crds::Adapter;
use finetune_crds::names::label;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::runtime::{Context, Error, reconcile as frame};

/// How long a Deployment that serves is not looked at if nothing is heard: a watch that begins anew tells nothing of an Adapter
/// that was deleted meanwhile.
const RESYNC: Duration = Duration::from_mins(5);
/// The most bytes of an object's name.
const LONGEST_NAME: usize = 253;
/// Digits that tell apart what was cut short.
const DIGITS: usize = 10;

/// The name of the ConfigMap that the agents of a Deployment read. One that would be too long ends in digits of its digest
/// instead of its last letters.
pub fn config_map_name(deployment: &str) -> String {
    let name = format!("finetune-{deployment}");
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let digest = digest::of_bytes(deployment.as_bytes());
    let digits = digest.rsplit(':').next().unwrap_or_default();
    // Names of objects are ASCII, so that any byte ends a letter.
    let kept = name
        .get(..LONGEST_NAME - DIGITS - 1)
        .unwrap_or_default()
        .trim_end_matches(['-', '.']);
    format!("{kept}-{}", digits.get(..DIGITS).unwrap_or_default())
}

/// What the watch brings of a Deployment: enough to know whether it is our business.
type Watched = PartialObjectMeta<Deployment>;

/// One look at a Deployment and what follows from it.
pub async fn reconcile(watched: Arc<Watched>, ctx: Arc<Context>) -> Result<Action, Error> {
    let Some((deployment, seen)) = observe::observe(&ctx, watched.as_ref()).await? else {
        return Ok(Action::await_change());
    };
    let verdict = validate::validate(&deployment, &seen);
    let plan = plan::plan(&deployment, &verdict, &seen, &ctx.settings.agent);
    let applied = apply::apply(&ctx, &deployment, plan).await?;
    report::report(&ctx, &deployment, &applied).await;
    Ok(applied
        .next_check
        .map_or_else(Action::await_change, |wait| {
            // Spread, so that Deployments that were seen together are not looked at together for ever.
            Action::requeue(wait.mul_f64(rand::random_range(0.8..1.2)))
        }))
}

/// Runs the controller until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: CancellationToken) -> Result<(), Error> {
    let client = ctx.client.clone();
    let any = ctx.watch.clone();
    let ours = any.clone().labels(&format!(
        "{}={}",
        label::MANAGED_BY,
        label::MANAGED_BY_VALUE
    ));
    let with_agent =
        any.clone()
            .labels(&format!("{}={}", label::ADAPTERS, label::ADAPTERS_ENABLED));
    // All Deployments, because one that loses its label must be seen too.
    let deployments: Api<Watched> = Api::all(client.clone());
    let controller = Controller::new(deployments, any.clone());
    let store = controller.store();
    let controller = controller
        .owns(
            Api::<PartialObjectMeta<ConfigMap>>::all(client.clone()),
            ours,
        )
        .watches(
            Api::<DeserializeGuard<Adapter>>::all(client.clone()),
            any,
            move |adapter| opted_in(&store, adapter.namespace().as_deref()),
        )
        .watches(
            Api::<PartialObjectMeta<Pod>>::all(client),
            with_agent,
            |pod| Some(ObjectRef::new(&pods::deployment_of(&pod)?).within(&pod.namespace()?)),
        );
    frame::run("inference-deployment", controller, ctx, shutdown, reconcile).await
}

/// All Deployments of a namespace that may serve: an Adapter that changed may have left one that it no longer names.
fn opted_in(store: &Store<Watched>, namespace: Option<&str>) -> Vec<ObjectRef<Watched>> {
    let concerned = |deployment: &Arc<Watched>| {
        deployment.namespace().as_deref() == namespace && target::is_opted_in(deployment.as_ref())
    };
    let deployments = store.state().into_iter().filter(concerned);
    deployments
        .map(|deployment| ObjectRef::from_obj(deployment.as_ref()))
        .collect()
}
