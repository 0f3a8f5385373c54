//! Drives one inference Deployment: `observe -> validate -> plan -> apply -> report`.
//!
//! It is the only writer of the Deployment's agent and of the ConfigMap that tells its agents what to serve, computed from
//! all Adapters that name the Deployment; so two Adapters on one Deployment cannot race. `validate` and `plan` are pure.

pub mod apply;
pub mod claims;
pub mod observe;
pub mod plan;
pub mod pods;
pub mod report;
pub mod seen;
pub mod settings;
pub mod target;
pub mod validate;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use finetune_crds::Adapter;
use finetune_crds::names::label;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

pub use self::settings::{AgentSettings, Arguments};
use crate::runtime::{Context, Error, reconcile as frame};

/// The name of the ConfigMap that the agents of a Deployment read.
pub fn config_map_name(deployment: &str) -> String {
    format!("finetune-{deployment}")
}

/// One look at a Deployment and what follows from it.
pub async fn reconcile(watched: Arc<Deployment>, ctx: Arc<Context>) -> Result<Action, Error> {
    let Some((deployment, seen)) = observe::observe(&ctx, &watched).await? else {
        return Ok(Action::await_change());
    };
    let verdict = validate::validate(&deployment, &seen);
    let plan = plan::plan(&deployment, &verdict, &seen, &ctx.settings.agent);
    let applied = apply::apply(&ctx, &deployment, plan).await?;
    report::report(&ctx, &deployment, &applied).await;
    Ok(applied
        .next_check
        .map_or_else(Action::await_change, Action::requeue))
}

/// Runs the controller until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: CancellationToken) -> Result<(), Error> {
    let client = ctx.client.clone();
    let any = watcher::Config::default().any_semantic();
    let ours = any.clone().labels(&format!(
        "{}={}",
        label::MANAGED_BY,
        label::MANAGED_BY_VALUE
    ));
    let with_agent =
        any.clone()
            .labels(&format!("{}={}", label::ADAPTERS, label::ADAPTERS_ENABLED));
    // All Deployments, because one that loses its label must be seen too.
    let deployments: Api<DeserializeGuard<Deployment>> = Api::all(client.clone());
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
fn opted_in(
    store: &Store<DeserializeGuard<Deployment>>,
    namespace: Option<&str>,
) -> Vec<ObjectRef<DeserializeGuard<Deployment>>> {
    let concerned = |deployment: &Arc<DeserializeGuard<Deployment>>| {
        deployment.namespace().as_deref() == namespace && target::is_opted_in(deployment.as_ref())
    };
    let deployments = store.state().into_iter().filter(concerned);
    deployments
        .map(|deployment| ObjectRef::from_obj(deployment.as_ref()))
        .collect()
}
