//! The frame around every reconcile: a deadline, metrics, a rest after failures, and objects that do not parse, or make us
//! panic, kept away from all others. Knows no resource; decides nothing about one.
//!
//! RBAC: `list` finetunejobs, adapters, deployments; `create` and `patch` events.

use std::any::Any;
use std::fmt::Debug;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use kube::api::{Api, ListParams};
use kube::core::error_boundary::InvalidObject;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::events::{Event, EventType};
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::context::Key;
use super::metrics::ReconcileResult;
use super::{Context, Error, malformed, retired};

/// The longest a reconcile may take. The client alone never gives up on a half-open connection.
const DEADLINE: Duration = Duration::from_mins(1);
/// The longest that writing an Event about a failure may take.
const EVENT_DEADLINE: Duration = Duration::from_secs(10);
/// After a conflict the fresh object is a watch event away.
const AFTER_CONFLICT: Duration = Duration::from_millis(300);
/// Reconciles at once, of one controller.
const WORKERS: u16 = 8;

/// What a controller's watch brings.
pub trait Watched:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// What is reconciled.
    type Object: Send + Sync + 'static;

    /// The object, or why it does not parse.
    fn parsed(&self) -> Result<Self::Object, &InvalidObject>;
}

impl<K> Watched for DeserializeGuard<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    type Object = K;

    fn parsed(&self) -> Result<K, &InvalidObject> {
        self.0.as_ref().cloned()
    }
}

/// For kinds of which the metadata is enough to know which objects are ours.
impl<K> Watched for PartialObjectMeta<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    type Object = Self;

    fn parsed(&self) -> Result<Self, &InvalidObject> {
        Ok(self.clone())
    }
}

/// Runs `controller` until `shutdown`, then lets what is under way finish.
///
/// `name` is its label in metrics and logs; `reconcile` drives one object that parses. An object that does not parse gets a
/// condition and is otherwise left alone, so that it stalls no other.
pub async fn run<W, F, Fut>(
    name: &'static str,
    controller: Controller<W>,
    context: Arc<Context>,
    shutdown: CancellationToken,
    reconcile: F,
) -> Result<(), Error>
where
    W: Watched,
    F: Fn(Arc<W::Object>, Arc<Context>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Action, Error>> + Send + 'static,
{
    context.metrics.controller(name, WORKERS);
    context.readiness.wait_for(name);
    tokio::spawn(first_list::<W>(name, Arc::clone(&context)));
    let known = Arc::clone(&context);
    controller
        .with_config(controller::Config::default().concurrency(WORKERS))
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(
            move |watched, context| frame(name, watched, context, reconcile.clone()),
            move |watched, error, context| rest(name, &watched, error, &context),
            context,
        )
        .for_each(|result| {
            match result {
                // An object that rests after failures is looked for once more when its rest is over.
                Err(controller::Error::ObjectNotFound(gone)) => known.backoff.forget(&(
                    name,
                    gone.namespace.clone(),
                    gone.name.clone(),
                )),
                Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
                Err(error) => tracing::warn!(controller = name, %error, "the watch is interrupted; it goes on by itself"),
            }
            std::future::ready(())
        })
        .await;
    if shutdown.is_cancelled() {
        Ok(())
    } else {
        Err(Error::Ended(name))
    }
}

/// Tells readiness once the API server lists the kind. The controller's own store is not asked: of several that wait for
/// one, kube wakes only the last, and that must be the controller. It rests between tries as long as the watch itself does: what
/// is missing, such as a definition, may stay so for days.
async fn first_list<W: Watched>(name: &'static str, context: Arc<Context>) {
    let api = Api::<W>::all(context.client.clone());
    let mut backoff = watcher::DefaultBackoff::default();
    while let Err(error) = api.list_metadata(&ListParams::default().limit(1)).await {
        let again = backoff.next().unwrap_or(DEADLINE);
        tracing::warn!(
            controller = name,
            %error,
            again_in_ms = u64::try_from(again.as_millis()).unwrap_or(u64::MAX),
            "the kind cannot be listed yet"
        );
        tokio::time::sleep(again).await;
    }
    context.readiness.done(name);
}

async fn frame<W, F, Fut>(
    name: &'static str,
    watched: Arc<W>,
    context: Arc<Context>,
    reconcile: F,
) -> Result<Action, Error>
where
    W: Watched,
    F: Fn(Arc<W::Object>, Arc<Context>) -> Fut,
    Fut: Future<Output = Result<Action, Error>>,
{
    let _working = context.metrics.working(name);
    let started = Instant::now();
    // Nothing that the future holds is looked at after a panic: the context's own state stays whole behind its locks.
    let look = AssertUnwindSafe(look(watched.as_ref(), &context, reconcile)).catch_unwind();
    let outcome = match tokio::time::timeout(DEADLINE, look).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(panicked(name, watched.as_ref(), &context, words(panic)).await),
        Err(_) => Err(Error::Deadline(DEADLINE)),
    };
    let (outcome, result) = match outcome {
        Ok(action) if action == Action::await_change() => (Ok(action), ReconcileResult::Success),
        Ok(action) => (Ok(action), ReconcileResult::RequeueAfter),
        Err(error) if error.is_conflict() => (
            Ok(Action::requeue(AFTER_CONFLICT)),
            ReconcileResult::Requeue,
        ),
        Err(error) => (Err(error), ReconcileResult::Error),
    };
    context.metrics.reconciled(name, result, started.elapsed());
    // A conflict is no success: what failed before it may fail again.
    if matches!(
        result,
        ReconcileResult::Success | ReconcileResult::RequeueAfter
    ) {
        context.backoff.forget(&key(name, watched.as_ref()));
    }
    outcome
}

async fn look<W, F, Fut>(watched: &W, context: &Arc<Context>, reconcile: F) -> Result<Action, Error>
where
    W: Watched,
    F: Fn(Arc<W::Object>, Arc<Context>) -> Fut,
    Fut: Future<Output = Result<Action, Error>>,
{
    if retired::drop_finalizer(context, watched).await? {
        return Ok(Action::await_change());
    }
    let object = match watched.parsed() {
        Ok(object) => Arc::new(object),
        Err(invalid) => {
            malformed::report(context, watched, invalid).await?;
            return Ok(Action::await_change());
        }
    };
    malformed::withdraw(context, watched).await?;
    reconcile(object, Arc::clone(context)).await
}

/// Counts a panic and tells it to whoever looks at the object; the error that stands for it.
async fn panicked<W: Watched>(
    name: &'static str,
    watched: &W,
    context: &Context,
    words: String,
) -> Error {
    context.metrics.panicked(name);
    let event = Event {
        type_: EventType::Warning,
        reason: "InternalError".to_owned(),
        note: Some(format!(
            "a fault of the operator stops its work on this object ({words}); it is tried again"
        )),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let about = watched.object_ref(&());
    let published = context.recorder.publish(&event, &about);
    match tokio::time::timeout(EVENT_DEADLINE, published).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, reason = event.reason, "an Event could not be written");
        }
        Err(_) => tracing::warn!(
            reason = event.reason,
            "an Event could not be written in time"
        ),
    }
    Error::Panicked(words)
}

/// What a panic said.
fn words(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(words) => *words,
        Err(panic) => panic
            .downcast_ref::<&str>()
            .copied()
            .unwrap_or("no message")
            .to_owned(),
    }
}

fn rest<W: Watched>(
    name: &'static str,
    watched: &Arc<W>,
    error: &Error,
    context: &Arc<Context>,
) -> Action {
    context.metrics.failed(name, error.label());
    let delay = context
        .backoff
        .failed(key(name, watched.as_ref()), rand::random());
    tracing::warn!(
        controller = name,
        namespace = watched.namespace(),
        name = watched.name_any(),
        %error,
        again_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        "a reconcile failed"
    );
    Action::requeue(delay)
}

fn key<K: Resource>(controller: &'static str, object: &K) -> Key {
    (controller, object.namespace(), object.name_any())
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
