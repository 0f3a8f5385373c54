//! Drives one `Adapter`: `observe -> validate -> plan -> report`.
//!
//! It decides which version is the candidate and which the stable one, from what the agents say, and records it in the
//! status. It never writes a Deployment, a ConfigMap or a pod: the controller of inference Deployments does, from that
//! status; so there is nothing to apply, and nothing that a deleted Adapter must wait for: agents let go of what no Adapter
//! names. `validate` and `plan` are pure.
//!
//! RBAC: `list` and `watch` adapters, deployments, pods.

pub mod events;
pub mod observe;
pub mod plan;
pub mod report;
pub mod seen;
pub mod standing;
pub mod status;
pub mod validate;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use finetune_crds::Adapter;
use finetune_crds::names::label;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::inference_deployment::pods;
use crate::runtime::{Context, Error, reconcile as frame};

/// One look at an Adapter and what follows from it.
pub async fn reconcile(watched: Arc<Adapter>, ctx: Arc<Context>) -> Result<Action, Error> {
    let Some((adapter, seen)) = observe::observe(&ctx, &watched).await? else {
        return Ok(Action::await_change());
    };
    let validated = validate::validate(&adapter, &seen);
    let plan = plan::plan(&adapter, &validated, &seen, (ctx.now)());
    report::report(&ctx, &adapter, &plan).await?;
    Ok(Action::requeue(plan.next_check))
}

/// Runs the controller until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: CancellationToken) -> Result<(), Error> {
    let client = ctx.client.clone();
    let any = ctx.watch.clone();
    let with_agent =
        any.clone()
            .labels(&format!("{}={}", label::ADAPTERS, label::ADAPTERS_ENABLED));
    let controller = Controller::new(
        Api::<DeserializeGuard<Adapter>>::all(client.clone()),
        any.clone(),
    );
    let (by_deployment, by_pod) = (controller.store(), controller.store());
    let controller = controller
        .watches(
            Api::<PartialObjectMeta<Deployment>>::all(client.clone()),
            any,
            move |deployment| {
                naming(
                    &by_deployment,
                    deployment.namespace().as_deref(),
                    &deployment.name_any(),
                )
            },
        )
        .watches(
            Api::<PartialObjectMeta<Pod>>::all(client),
            with_agent,
            move |pod| {
                let deployment = pods::deployment_of(&pod);
                deployment
                    .map(|deployment| naming(&by_pod, pod.namespace().as_deref(), &deployment))
                    .unwrap_or_default()
            },
        );
    let store = controller.store();
    ctx.metrics.before_reading(move |metrics| {
        metrics.adapters.reset();
        for guard in store.state() {
            let phase = match &guard.0 {
                Ok(adapter) => adapter
                    .status
                    .as_ref()
                    .and_then(|status| status.phase)
                    .unwrap_or_default()
                    .as_str(),
                Err(_) => "Malformed",
            };
            metrics.adapters.with_label_values(&[phase]).inc();
        }
    });
    frame::run("adapter", controller, ctx, shutdown, reconcile).await
}

/// The Adapters of a namespace that name a Deployment.
fn naming(
    store: &Store<DeserializeGuard<Adapter>>,
    namespace: Option<&str>,
    deployment: &str,
) -> Vec<ObjectRef<DeserializeGuard<Adapter>>> {
    let concerned = |guard: &Arc<DeserializeGuard<Adapter>>| {
        guard.namespace().as_deref() == namespace
            && guard.0.as_ref().is_ok_and(|adapter| {
                let mut serving = adapter.spec.serving.iter();
                serving.any(|serving| serving.deployment_name == deployment)
            })
    };
    let adapters = store.state().into_iter().filter(concerned);
    adapters
        .map(|adapter| ObjectRef::from_obj(adapter.as_ref()))
        .collect()
}
