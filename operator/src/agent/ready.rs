//! The agent's second port: `/readyz`, `/livez`, `/state` and `/metrics`. Read-only; nothing here changes anything.

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use super::metrics::Metrics;
use super::reconcile::Report;

/// What the port shows.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    /// What the loop says.
    pub report: watch::Receiver<Report>,
    /// What was counted.
    pub metrics: Metrics,
}

/// The port's routes.
pub(crate) fn router(port: Port) -> Router {
    Router::new()
        .route("/readyz", get(readyz))
        .route("/livez", get(livez))
        .route("/state", get(state))
        .route("/metrics", get(metrics))
        .with_state(port)
}

/// Whether clients may be sent to the pod. It asks the engine now, so that one that has restarted empty is never
/// reported ready.
async fn readyz(Shared(port): Shared<Port>) -> Response {
    let report = port.report.borrow().clone();
    match fault(&report).await {
        None => "ready\n".into_response(),
        Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")).into_response(),
    }
}

/// Whether the process should be restarted: it answers, or it does not.
async fn livez() -> &'static str {
    "alive\n"
}

async fn state(Shared(port): Shared<Port>) -> Response {
    axum::Json(port.report.borrow().state.clone()).into_response()
}

async fn metrics(Shared(port): Shared<Port>) -> Response {
    match port.metrics.text() {
        Ok(text) => text.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Why the pod is not ready. Candidates never are a reason: one bad artefact must not take pods away.
async fn fault(report: &Report) -> Option<String> {
    let Some(engine) = &report.engine else {
        let why = report.state.desired_error.as_deref();
        return Some(why.unwrap_or("desired.json was not read yet").to_owned());
    };
    if let Err(error) = engine.health().await {
        return Some(error.to_string());
    }
    let models = match engine.models().await {
        Ok(models) => models,
        Err(error) => return Some(error.to_string()),
    };
    for required in &report.required {
        let version = &required.version;
        let listed = models.iter().any(|model| {
            model.id == *version && model.root.is_some() && model.root == required.folder
        });
        if !listed {
            return Some(format!("the engine does not hold `{version}` yet"));
        }
        if !required.proven {
            return Some(format!("`{version}` has not passed its golden test yet"));
        }
    }
    None
}
