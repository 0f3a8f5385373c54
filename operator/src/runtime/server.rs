//! `/livez`, `/readyz` and `/metrics`. Answers only; changes nothing.
//!
//! Live: the process can answer at all. Ready: it is a standby that reads the lease, or a leader whose controllers have
//! their first lists. `/readyz` names what it still waits for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use finetune_artifacts::network;

use super::Error;
use super::metrics::Metrics;

/// What the process still waits for before it is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readiness {
    /// Not ready until [`Self::done`] is called with the same words.
    pub fn wait_for(&self, what: &'static str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(what);
    }

    /// `what` has come.
    pub fn done(&self, what: &'static str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(what);
    }

    /// What is still awaited.
    pub fn waiting(&self) -> Vec<&'static str> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect()
    }
}

/// Listens on `address` and serves in the background until the process ends.
pub async fn start(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: Readiness,
) -> Result<(), Error> {
    let listener = network::listen(address)
        .await
        .map_err(|source| Error::Listen { address, source })?;
    let router = router(metrics, readiness);
    tokio::spawn(network::serve(listener, router, std::future::pending()));
    Ok(())
}

fn router(metrics: Arc<Metrics>, readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(metrics_text).with_state(metrics))
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let waiting = readiness.waiting();
    if waiting.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("waiting for {}\n", waiting.join(", ")),
        )
    }
}

async fn metrics_text(State(metrics): State<Arc<Metrics>>) -> (StatusCode, String) {
    match metrics.text() {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn get_path(router: Router, path: &str) -> (StatusCode, String) {
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn is_ready_only_once_nothing_is_awaited_and_says_what_is() {
        let readiness = Readiness::default();
        readiness.wait_for("the lease");
        let router = router(Metrics::new().unwrap(), readiness.clone());
        let (status, text) = get_path(router.clone(), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("the lease"));
        assert_eq!(get_path(router.clone(), "/livez").await.0, StatusCode::OK);
        readiness.done("the lease");
        assert_eq!(get_path(router, "/readyz").await.0, StatusCode::OK);
    }
}
