//! Objects that do not parse: a condition and an Event say so, nothing else about them is touched, and no other object waits.
//!
//! They come from an API server whose definition is another than this program's, after an upgrade or a step back for instance.
//!
//! RBAC: `get` finetunejobs, adapters; `patch` finetunejobs/status, adapters/status; `create` and `patch` events.

use finetune_crds::names::{condition, field_manager};
use jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};

use super::{Context, Error};

/// What the condition and the Event call it.
const REASON: &str = "Malformed";
/// The most characters of a message.
const LONGEST_MESSAGE: usize = 1000;

/// Tells whoever looks at `object` that it does not parse. Writes only what is not said there already.
pub(super) async fn report<K>(
    ctx: &Context,
    object: &K,
    invalid: &InvalidObject,
) -> Result<(), Error>
where
    K: Resource<DynamicType = ()>,
{
    let message = message(invalid);
    tracing::warn!(
        kind = K::kind(&()).as_ref(),
        namespace = object.namespace(),
        name = object.name_any(),
        error = invalid.error,
        "an object does not parse and is left alone: correct or delete it"
    );
    let api = dynamic::<K>(ctx, object);
    let name = object.name_any();
    let Some(stored) = api
        .get_opt(&name)
        .await
        .map_err(Error::cluster("read an object that does not parse"))?
    else {
        return Ok(());
    };
    if stored.metadata.deletion_timestamp.is_some() || says(&stored.data, &message) {
        return Ok(());
    }
    let said =
        json!({ "conditions": [condition(&message, object.meta().generation, (ctx.now)())] });
    let parameters = PatchParams::apply(field_manager::MALFORMED).force();
    let written = api
        .patch_status(
            &name,
            &parameters,
            &Patch::Apply(&patch::<K>(&name, Some(&said))),
        )
        .await;
    match written {
        // Whatever the API server has against it, the Event still says it.
        Err(kube::Error::Api(answer)) => {
            tracing::warn!(
                name,
                error = answer.message,
                "the condition Malformed could not be written"
            );
        }
        written => {
            written.map_err(Error::cluster("say of an object that it does not parse"))?;
        }
    }
    let event = Event {
        type_: EventType::Warning,
        reason: REASON.to_owned(),
        note: Some(message),
        action: "Read".to_owned(),
        secondary: None,
    };
    if let Err(error) = ctx.recorder.publish(&event, &object.object_ref(&())).await {
        tracing::warn!(%error, reason = REASON, "an Event could not be written");
    }
    Ok(())
}

/// Takes the condition away from an object that parses again.
pub(super) async fn withdraw<K>(ctx: &Context, object: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = ()>,
{
    let is_said = object
        .managed_fields()
        .iter()
        .any(|entry| entry.manager.as_deref() == Some(field_manager::MALFORMED));
    if !is_said {
        return Ok(());
    }
    let name = object.name_any();
    let parameters = PatchParams::apply(field_manager::MALFORMED).force();
    match dynamic::<K>(ctx, object)
        .patch_status(&name, &parameters, &Patch::Apply(&patch::<K>(&name, None)))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => Err(Error::cluster("withdraw the condition Malformed")(error)),
    }
}

fn message(invalid: &InvalidObject) -> String {
    let message = format!(
        "this operator cannot read the object and leaves it alone: {}; correct or delete it, or install the operator's version that \
         wrote it",
        invalid.error
    );
    message.chars().take(LONGEST_MESSAGE).collect()
}

fn dynamic<K: Resource<DynamicType = ()>>(ctx: &Context, object: &K) -> Api<DynamicObject> {
    Api::namespaced_with(
        ctx.client.clone(),
        &object.namespace().unwrap_or_default(),
        &ApiResource::erase::<K>(&()),
    )
}

/// `status` absent: nothing is owned any more. An empty one would be a field that is.
fn patch<K: Resource<DynamicType = ()>>(name: &str, status: Option<&Value>) -> Value {
    let mut patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name },
    });
    if let Some(status) = status {
        patch["status"] = status.clone();
    }
    patch
}

fn condition(message: &str, generation: Option<i64>, now: Timestamp) -> Value {
    let mut condition = json!({
        "type": condition::MALFORMED,
        "status": "True",
        "reason": REASON,
        "message": message,
        "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    if let Some(generation) = generation {
        condition["observedGeneration"] = generation.into();
    }
    condition
}

/// Whether the object has the condition with this message already.
fn says(data: &Value, message: &str) -> bool {
    let conditions = data.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|known| known["type"] == condition::MALFORMED && known["message"] == message)
}
