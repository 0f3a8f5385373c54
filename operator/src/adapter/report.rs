//! Stores the status and tells what changed. Writes only on a change, and only onto what was read.
//!
//! RBAC: `patch` adapters and adapters/status; `create` and `patch` events.

use finetune_crds::Adapter;
use finetune_crds::names::{GROUP, VERSION, annotation, field_manager};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};

use super::events::{self, NewEvent};
use super::plan::Plan;
use crate::runtime::{Context, Error};

/// Stores the status of `adapter`, then writes the Events that the change is worth.
pub async fn report(ctx: &Context, adapter: &Adapter, plan: &Plan) -> Result<(), Error> {
    if adapter.status.as_ref() != Some(&plan.status) {
        store(ctx, adapter, plan).await?;
        tell(ctx, adapter, plan).await;
    }
    // Only now: had it gone first and the status not been stored, the request would be lost.
    if plan.drop_retry {
        drop_retry(ctx, adapter).await?;
    }
    Ok(())
}

async fn store(ctx: &Context, adapter: &Adapter, plan: &Plan) -> Result<(), Error> {
    let name = adapter.name_any();
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "Adapter",
        // If the object has changed since it was read, the decision was made on old facts: look again.
        "metadata": { "name": name, "resourceVersion": adapter.resource_version() },
        "status": plan.status,
    });
    let parameters = PatchParams::apply(field_manager::ADAPTER).force();
    match api(ctx, adapter)
        .patch_status(&name, &parameters, &Patch::Apply(&patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => Err(Error::cluster("store the status of the Adapter")(error)),
    }
}

async fn drop_retry(ctx: &Context, adapter: &Adapter) -> Result<(), Error> {
    let patch = json!({ "metadata": { "annotations": { annotation::RETRY: Value::Null } } });
    let (api, name) = (api(ctx, adapter), adapter.name_any());
    match api
        .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => Err(Error::cluster(
            "remove the annotation that asks for another try",
        )(error)),
    }
}

async fn tell(ctx: &Context, adapter: &Adapter, plan: &Plan) {
    let before = adapter.status.as_ref();
    if before.and_then(|status| status.phase) != plan.status.phase {
        tracing::info!(
            namespace = adapter.namespace(),
            name = adapter.name_any(),
            phase = plan.status.phase.unwrap_or_default().as_str(),
            "the Adapter has a new phase"
        );
    }
    for event in events::between(before, &plan.status) {
        write_event(ctx, adapter, event).await;
    }
}

/// An Event that cannot be written fails nothing.
async fn write_event(ctx: &Context, adapter: &Adapter, event: NewEvent) {
    let event = Event {
        type_: if event.warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: event.reason,
        note: Some(event.note),
        action: event.action.to_owned(),
        secondary: None,
    };
    if let Err(error) = ctx.recorder.publish(&event, &adapter.object_ref(&())).await {
        tracing::warn!(%error, reason = event.reason, "an Event could not be written");
    }
}

fn api(ctx: &Context, adapter: &Adapter) -> Api<Adapter> {
    Api::namespaced(ctx.client.clone(), &adapter.namespace().unwrap_or_default())
}
