//! Waiting for the cluster, with the reason in the error.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kube::api::Api;
use serde::de::DeserializeOwned;

/// Calls `look` twice a second until it returns something, at most `seconds`.
pub async fn until<T, F, Fut>(what: &str, seconds: u64, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    let mut last = None;
    while start.elapsed() < Duration::from_secs(seconds) {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => last = None,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    match last {
        Some(error) => bail!("waited {seconds} s for {what}; last error: {error:#}"),
        None => bail!("waited {seconds} s for {what}"),
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
    let start = Instant::now();
    let mut last = None;
    while start.elapsed() < Duration::from_secs(seconds) {
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
    bail!("waited {seconds} s for {name} to be {what}; it is {text}")
}
