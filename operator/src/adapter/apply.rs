//! Carries a plan out: the finalizer, before anything is recorded that makes agents hold the adapter.
//!
//! RBAC: `patch` adapters.

use std::time::Duration;

use finetune_crds::names::{ADAPTER_FINALIZER, field_manager};
use finetune_crds::{Adapter, AdapterStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::plan::{FinalizerChange, Plan};
use crate::runtime::{Context, Error};

/// What became of a plan: what is to be reported, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The version of the object that the status is written onto; `None` if the object is gone.
    pub resource_version: Option<String>,
    /// The status to store.
    pub status: AdapterStatus,
    /// Whether the request to try once more was heard.
    pub drop_retry: bool,
    /// When to look again.
    pub next_check: Duration,
}

/// Carries `plan` out for `adapter`.
pub async fn apply(ctx: &Context, adapter: &Adapter, plan: Plan) -> Result<Applied, Error> {
    let Plan {
        finalizer,
        status,
        drop_retry,
        next_check,
    } = plan;
    let resource_version = match finalizer {
        None => adapter.resource_version(),
        Some(change) => change_finalizer(ctx, adapter, change).await?,
    };
    Ok(Applied {
        resource_version,
        status,
        drop_retry,
        next_check,
    })
}

/// The object's new version; `None` if it is gone with its last finalizer.
async fn change_finalizer(
    ctx: &Context,
    adapter: &Adapter,
    change: FinalizerChange,
) -> Result<Option<String>, Error> {
    let mut finalizers = adapter.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != ADAPTER_FINALIZER);
    match change {
        FinalizerChange::Add => finalizers.push(ADAPTER_FINALIZER.to_owned()),
        FinalizerChange::Remove
            if adapter.metadata.deletion_timestamp.is_some() && finalizers.is_empty() =>
        {
            write_finalizers(ctx, adapter, &finalizers).await?;
            return Ok(None);
        }
        FinalizerChange::Remove => {}
    }
    write_finalizers(ctx, adapter, &finalizers).await
}

async fn write_finalizers(
    ctx: &Context,
    adapter: &Adapter,
    finalizers: &[String],
) -> Result<Option<String>, Error> {
    // With the version that was read, nobody else's finalizer can be lost.
    let patch = json!({ "metadata": { "resourceVersion": adapter.resource_version(), "finalizers": finalizers } });
    let adapters: Api<Adapter> =
        Api::namespaced(ctx.client.clone(), &adapter.namespace().unwrap_or_default());
    let parameters = PatchParams {
        field_manager: Some(field_manager::ADAPTER.to_owned()),
        ..PatchParams::default()
    };
    match adapters
        .patch_metadata(&adapter.name_any(), &parameters, &Patch::Merge(&patch))
        .await
    {
        Ok(written) => Ok(written.metadata.resource_version),
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(None),
        Err(error) => Err(Error::cluster("change the finalizer of the Adapter")(error)),
    }
}
