//! What earlier versions put on objects and this one does not: it is taken away wherever it is met.
//!
//! RBAC: `patch` adapters.

use finetune_crds::names::RETIRED_FINALIZER;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use super::{Context, Error};

/// Takes the finalizer of earlier versions from `object`, so that its deletion waits for nobody. Whether there was one; then the
/// object has changed, and comes again by its watch if it still is.
pub(super) async fn drop_finalizer<K>(ctx: &Context, object: &K) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()>,
{
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != RETIRED_FINALIZER);
    if finalizers.len() == object.finalizers().len() {
        return Ok(false);
    }
    // With the version that was read, nobody else's finalizer can be lost.
    let patch = json!({ "metadata": { "resourceVersion": object.resource_version(), "finalizers": finalizers } });
    // Of the metadata alone: the rest need not parse.
    let api: Api<DynamicObject> = Api::namespaced_with(
        ctx.client.clone(),
        &object.namespace().unwrap_or_default(),
        &ApiResource::erase::<K>(&()),
    );
    match api
        .patch_metadata(
            &object.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
    {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(true),
        Err(error) => Err(Error::cluster(
            "take the finalizer of an earlier version away",
        )(error)),
    }
}
