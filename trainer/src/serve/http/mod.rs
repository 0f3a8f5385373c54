//! The routes. Handlers translate: what they decide is only what a request says.

mod answer;
mod body;
mod chat;
mod completions;
mod error;
mod form;
mod models;
mod prepare;
mod room;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use finetune_artifacts::network::bodies::Bodies;

use super::engine::Engine;
use super::request_error::RequestError;
use super::tools::ToolCalls;
pub(super) use body::LIMITS as BODIES;
use error::ApiError;
pub(super) use prepare::Preparation;

/// The routes whose answers are counted from the start.
const COUNTED: [&str; 6] = [
    "/v1/models",
    "/v1/models/{*name}",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/v1/completions",
    "/v1/chat/completions",
];

/// What the handlers share.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) engine: Engine,
    /// The base's name.
    pub(super) name: String,
    /// Where the base was loaded from.
    pub(super) root: String,
    /// When, in seconds since 1970.
    pub(super) started: i64,
    /// The present, in seconds since 1970.
    pub(super) now: fn() -> i64,
    /// How calls of functions are read and shown.
    pub(super) tool_calls: ToolCalls,
    /// The bytes of the longest token.
    pub(super) longest_token: usize,
    /// The room for the bodies of requests.
    pub(super) bodies: Bodies,
    /// Requests that are being made ready.
    pub(super) preparation: Preparation,
    /// Whether the server is about to end.
    pub(super) draining: AtomicBool,
}

/// All routes.
pub(super) fn router(server: Arc<Server>) -> Router {
    for route in COUNTED {
        server.engine.metrics.expect(route);
    }
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::find))
        .route("/v1/load_lora_adapter", post(models::load))
        .route("/v1/unload_lora_adapter", post(models::unload))
        .route("/v1/completions", post(completions::create))
        .route("/v1/chat/completions", post(chat::create))
        .fallback(async |request: Request| {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            ApiError::no_path(format!("there is no {method} {path}"))
        })
        .method_not_allowed_fallback(async |request: Request| {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            ApiError::refused(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("{path} does not take {method}"),
            )
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&server), count))
        .with_state(server)
}

async fn health(State(server): State<Arc<Server>>) -> StatusCode {
    if server.engine.is_alive() && !server.draining.load(Ordering::Relaxed) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    match server.engine.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => ApiError::from(RequestError::Internal(error.to_string())).into_response(),
    }
}

/// Counts answers by route and status. Paths without a route share one label, so that clients cannot make new ones.
async fn count(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    server
        .engine
        .metrics
        .requests
        .with_label_values(&[route, response.status().as_str()])
        .inc();
    response
}
