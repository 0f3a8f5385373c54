//! `/progress`, `/metrics` and `/livez` over HTTP. Read-only: nothing that is asked here changes the run.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use finetune_artifacts::network;
use finetune_crds::contract::Progress;

use super::Reporter;

/// Listens on `address` and answers in the background until the process ends. Returns the address, whose port the
/// system chose where `address` has port 0.
pub async fn serve(address: SocketAddr, reporter: Reporter) -> std::io::Result<SocketAddr> {
    let listener = network::listen(address).await?;
    let bound = listener.local_addr()?;
    let router = Router::new()
        .route("/progress", get(progress))
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "ok"))
        .with_state(reporter);
    tokio::spawn(network::serve(listener, router, std::future::pending()));
    Ok(bound)
}

async fn progress(State(reporter): State<Reporter>) -> Json<Progress> {
    Json(reporter.progress())
}

async fn metrics(State(reporter): State<Reporter>) -> Response {
    match reporter.metrics().text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
