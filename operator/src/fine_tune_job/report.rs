//! Stores the status and tells what changed. Writes only on a change, and only onto what was read.
//!
//! RBAC: `patch` finetunejobs/status; `create` and `patch` events.

use finetune_crds::FineTuneJob;
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::{GROUP, VERSION, field_manager};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};

use super::apply::Applied;
use super::events::{self, NewEvent};
use crate::runtime::{Context, Error};

/// Stores the status of `job`, then writes the Events that the change is worth.
pub async fn report(ctx: &Context, job: &FineTuneJob, applied: &Applied) -> Result<(), Error> {
    if job.status.as_ref() == Some(&applied.status) {
        for event in &applied.events {
            write_event(ctx, job, event.clone()).await;
        }
        return Ok(());
    }
    let name = job.name_any();
    let patch = serde_json::json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "FineTuneJob",
        // If the object has changed since it was read, the decision was made on old facts: look again.
        "metadata": { "name": name, "resourceVersion": job.resource_version() },
        "status": applied.status,
    });
    let api: Api<FineTuneJob> =
        Api::namespaced(ctx.client.clone(), &job.namespace().unwrap_or_default());
    let parameters = PatchParams::apply(field_manager::FINE_TUNE_JOB).force();
    match api
        .patch_status(&name, &parameters, &Patch::Apply(&patch))
        .await
    {
        Ok(_) => {}
        Err(kube::Error::Api(answer)) if answer.is_not_found() => return Ok(()),
        Err(error) => return Err(Error::cluster("store the status of the FineTuneJob")(error)),
    }
    let before = job.status.as_ref();
    let phase = applied.status.phase.unwrap_or_default();
    if before.and_then(|status| status.phase) != Some(phase) {
        announce(ctx, job, phase);
    }
    let changes = events::between(before, &applied.status);
    for event in changes.into_iter().chain(applied.events.iter().cloned()) {
        write_event(ctx, job, event).await;
    }
    Ok(())
}

fn announce(ctx: &Context, job: &FineTuneJob, phase: JobPhase) {
    ctx.metrics
        .fine_tune_job_transitions
        .with_label_values(&[phase.as_str()])
        .inc();
    tracing::info!(
        namespace = job.namespace(),
        name = job.name_any(),
        phase = phase.as_str(),
        "the FineTuneJob has a new phase"
    );
}

/// An Event that cannot be written fails nothing.
async fn write_event(ctx: &Context, job: &FineTuneJob, event: NewEvent) {
    let event = Event {
        type_: if event.warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: event.reason,
        note: Some(event.note),
        action: event.action.to_owned(),
        secondary: event.pod.map(|pod| ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: job.namespace(),
            name: Some(pod),
            ..ObjectReference::default()
        }),
    };
    if let Err(error) = ctx.recorder.publish(&event, &job.object_ref(&())).await {
        tracing::warn!(%error, reason = event.reason, "an Event could not be written");
    }
}
