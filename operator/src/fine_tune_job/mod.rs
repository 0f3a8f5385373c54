//! Drives one `FineTuneJob` towards its spec: `observe -> validate -> plan -> apply -> report`.
//!
//! `observe`, `apply` and `report` talk to the cluster; `validate` and `plan` are pure, so every decision that this
//! controller makes can be tested without one.
//!
//! RBAC: `list` and `watch` finetunejobs, configmaps, jobs, pods.

pub mod apply;
pub mod events;
pub mod observe;
pub mod plan;
pub mod reasons;
pub mod report;
pub mod seen;
pub mod status;
mod translate;
pub mod validate;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use finetune_crds::FineTuneJob;
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::label;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::runtime::{Context, Error, reconcile as frame};

/// One look at a job and what follows from it.
pub async fn reconcile(watched: Arc<FineTuneJob>, ctx: Arc<Context>) -> Result<Action, Error> {
    let Some((fine_tune_job, seen)) = Box::pin(observe::observe(&ctx, &watched)).await? else {
        return Ok(Action::await_change());
    };
    let verdict = validate::validate(&fine_tune_job);
    let plan = plan::plan(&fine_tune_job, &verdict, &seen, &ctx.settings, (ctx.now)());
    let applied = apply::apply(&ctx, &fine_tune_job, plan).await?;
    report::report(&ctx, &fine_tune_job, &applied).await?;
    Ok(applied
        .next_check
        .map_or_else(Action::await_change, Action::requeue))
}

/// Runs the controller until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: CancellationToken) -> Result<(), Error> {
    let client = ctx.client.clone();
    let any = ctx.watch.clone();
    let children = any.clone().labels(label::FINE_TUNE_JOB);
    let fine_tune_jobs: Api<DeserializeGuard<FineTuneJob>> = Api::all(client.clone());
    let controller = Controller::new(fine_tune_jobs, any)
        .owns(Api::<ConfigMap>::all(client.clone()), children.clone())
        .owns(Api::<Job>::all(client.clone()), children.clone())
        // A pod belongs to its Job, so it is the label that leads to ours. It only wakes us: nothing is believed for it.
        .watches(
            Api::<PartialObjectMeta<Pod>>::all(client),
            children,
            |pod| {
                let name = pod.labels().get(label::FINE_TUNE_JOB)?.clone();
                Some(ObjectRef::new(&name).within(&pod.namespace()?))
            },
        );
    let store = controller.store();
    ctx.metrics.before_reading(move |metrics| {
        metrics.fine_tune_jobs.reset();
        for guard in store.state() {
            let phase = match &guard.0 {
                Ok(job) => job
                    .status
                    .as_ref()
                    .and_then(|status| status.phase)
                    .map_or("Pending", JobPhase::as_str),
                Err(_) => "Malformed",
            };
            metrics.fine_tune_jobs.with_label_values(&[phase]).inc();
        }
    });
    frame::run("fine-tune-job", controller, ctx, shutdown, reconcile).await
}
