//! The frame around every reconcile: a deadline, metrics, a rest after failures, and objects that do not parse kept away
//! from those that do. Knows no resource; decides nothing about one.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::{Api, ListParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Controller};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::metrics::ReconcileResult;
use super::{Context, Error};

/// The longest a reconcile may take. The client alone never gives up on a half-open connection.
const DEADLINE: Duration = Duration::from_mins(1);
/// After a conflict the fresh object is a watch event away.
const AFTER_CONFLICT: Duration = Duration::from_millis(300);
/// Reconciles at once, of one controller.
const WORKERS: u16 = 8;

/// Runs `controller` until `shutdown`, then lets what is under way finish.
///
/// `name` is its label in metrics and logs; `reconcile` drives one object that parses. Objects that do not parse are
/// reported once per version and otherwise left alone, so that they stall no other.
pub async fn run<K, F, Fut>(
    name: &'static str,
    controller: Controller<DeserializeGuard<K>>,
    context: Arc<Context>,
    shutdown: CancellationToken,
    reconcile: F,
) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    F: Fn(Arc<K>, Arc<Context>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Action, Error>> + Send + 'static,
{
    context.metrics.max_workers(name, WORKERS);
    context.readiness.wait_for(name);
    tokio::spawn(first_list::<K>(name, Arc::clone(&context)));
    controller
        .with_config(controller::Config::default().concurrency(WORKERS))
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(
            move |guard, context| frame(name, guard, context, reconcile.clone()),
            move |guard, error, context| rest(name, &guard, error, &context),
            context,
        )
        .for_each(|result| async move {
            match result {
                Ok(_) | Err(controller::Error::ObjectNotFound(_) | controller::Error::ReconcilerFailed(..)) => {}
                Err(error) => tracing::warn!(controller = name, %error, "the watch is interrupted; it goes on by itself"),
            }
        })
        .await;
    if shutdown.is_cancelled() {
        Ok(())
    } else {
        Err(Error::Ended(name))
    }
}

/// Tells readiness once the API server lists the kind. The controller's own store is not asked: of several that wait for
/// one, kube wakes only the last, and that must be the controller.
async fn first_list<K>(name: &'static str, context: Arc<Context>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api = Api::<K>::all(context.client.clone());
    while let Err(error) = api.list_metadata(&ListParams::default().limit(1)).await {
        tracing::warn!(controller = name, %error, "the kind cannot be listed yet");
        tokio::time::sleep(AFTER_CONFLICT).await;
    }
    context.readiness.done(name);
}

async fn frame<K, F, Fut>(
    name: &'static str,
    guard: Arc<DeserializeGuard<K>>,
    context: Arc<Context>,
    reconcile: F,
) -> Result<Action, Error>
where
    K: Resource<DynamicType = ()> + Clone,
    F: Fn(Arc<K>, Arc<Context>) -> Fut,
    Fut: Future<Output = Result<Action, Error>>,
{
    let object = match &guard.0 {
        Ok(object) => Arc::new(object.clone()),
        Err(invalid) => {
            tracing::warn!(
                controller = name,
                namespace = invalid.metadata.namespace,
                name = invalid.metadata.name,
                error = invalid.error,
                "an object does not parse and is left alone: correct or delete it"
            );
            return Ok(Action::await_change());
        }
    };
    let _working = context.metrics.working(name);
    let started = Instant::now();
    let outcome = tokio::time::timeout(DEADLINE, reconcile(object, Arc::clone(&context)))
        .await
        .unwrap_or(Err(Error::Deadline(DEADLINE)));
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
    if outcome.is_ok() {
        context.backoff.succeeded(&key(name, guard.as_ref()));
    }
    outcome
}

fn rest<K>(
    name: &'static str,
    guard: &Arc<DeserializeGuard<K>>,
    error: &Error,
    context: &Arc<Context>,
) -> Action
where
    K: Resource<DynamicType = ()>,
{
    context.metrics.failed(name, error.label());
    let delay = context
        .backoff
        .failed(key(name, guard.as_ref()), rand::random());
    tracing::warn!(
        controller = name,
        namespace = guard.namespace(),
        name = guard.name_any(),
        %error,
        again_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        "a reconcile failed"
    );
    Action::requeue(delay)
}

fn key<K: Resource>(
    controller: &'static str,
    object: &K,
) -> (&'static str, Option<String>, String) {
    (controller, object.namespace(), object.name_any())
}
