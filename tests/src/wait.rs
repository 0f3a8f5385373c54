//! Waiting for the cluster, with the reason in the error.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kube::api::Api;
use serde::de::DeserializeOwned;

/// No wait is given up sooner: on a busy machine everything takes longer, and what never comes is still missed.
const LEAST: Duration = Duration::from_mins(5);

fn limit(seconds: u64) -> Duration {
    Duration::from_secs(seconds).max(LEAST)
}

/// Calls `look` twice a second until it returns something, at most `seconds`, but five minutes at least.
pub async fn until<T, F, Fut>(what: &str, seconds: u64, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let (start, limit) = (Instant::now(), limit(seconds));
    let mut last = None;
    while start.elapsed() < limit {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => last = None,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    match last {
        Some(error) => bail!("waited {limit:?} for {what}; last error: {error:#}"),
        None => bail!("waited {limit:?} for {what}"),
    }
}

/// Waits until an object satisfies `predicate`, and returns it. The error shows the object as it last was.
pub async fn object<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    seconds: u64,
    predicate: impl Fn(&K) -> bool,
) -> Result<K>
where
    K: Clone + DeserializeOwned + Debug + serde::Serialize,
{
    let (start, limit) = (Instant::now(), limit(seconds));
    let mut last = None;
    while start.elapsed() < limit {
        if let Some(object) = api.get_opt(name).await? {
            if predicate(&object) {
                return Ok(object);
            }
            last = Some(object);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let text = last.map_or_else(
        || "absent".to_owned(),
        |o| serde_json::to_string(&o).unwrap_or_default(),
    );
    bail!("waited {limit:?} for {name} to be {what}; it is {text}")
}
