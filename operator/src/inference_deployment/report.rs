//! Tells the Deployment's owner, by Events, what was done to it. A Deployment's status is not ours.
//!
//! RBAC: `create` and `patch` events.

use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};

use super::apply::Applied;
use super::config_map_name;
use super::plan::Notice;
use crate::runtime::Context;

/// Writes the Event that `applied` is worth, if any. An Event that cannot be written fails nothing.
pub async fn report(ctx: &Context, deployment: &Deployment, applied: &Applied) {
    let Some(notice) = applied.notice else {
        return;
    };
    let (type_, reason, note) = match notice {
        Notice::AgentAdded => (
            EventType::Normal,
            "AgentAdded",
            "added the agent that serves adapters; one rolling update follows, later adapters need none".to_owned(),
        ),
        Notice::AgentRemoved => (
            EventType::Normal,
            "AgentRemoved",
            "removed the agent that serves adapters, because the Deployment has opted out; one rolling update follows"
                .to_owned(),
        ),
        Notice::ConfigMapTaken => (
            EventType::Warning,
            "ConfigMapTaken",
            format!(
                "the ConfigMap {} is not ours, but the agents need one of that name: delete or rename it",
                config_map_name(&deployment.name_any())
            ),
        ),
    };
    tracing::info!(
        namespace = deployment.namespace(),
        name = deployment.name_any(),
        reason,
        "{note}"
    );
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note),
        action: "ServeAdapters".to_owned(),
        secondary: None,
    };
    if let Err(error) = ctx
        .recorder
        .publish(&event, &deployment.object_ref(&()))
        .await
    {
        tracing::warn!(%error, reason = event.reason, "an Event could not be written");
    }
}
