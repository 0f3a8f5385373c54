//! The proxy that clients talk to: it turns the alias in a request into the version that answers for it, and back.
//!
//! A name that nobody knows is a 404 and a version that is not there a 503; the base never answers in its place. The
//! engine's routes that load and unload are not reachable through it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path as UrlPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use finetune_artifacts::network::bodies::{Announced, Bodies};
use futures::{Stream, StreamExt};
use serde_json::json;
use tokio::sync::Notify;

use super::body::{self, Model};
use super::metrics::{BASE, Metrics, UNKNOWN};
use super::rename::Renamer;
use super::routes::{InFlight, Route, Routes, Served};

/// Seconds after which a client that met a version on its way should try again.
const RETRY_AFTER: u64 = 2;
/// Which version answered, for people who look at a swap.
const VERSION_HEADER: HeaderName = HeaderName::from_static("x-finetune-version");

/// What each request needs.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    /// Where requests go.
    pub routes: Arc<Routes>,
    /// To the engine. Without a limit on the whole request: a generation may take minutes.
    pub client: reqwest::Client,
    /// The room for request bodies.
    pub bodies: Bodies,
    /// What is counted.
    pub metrics: Metrics,
    /// Wakes the loop when the engine has lost a version.
    pub nudge: Arc<Notify>,
}

/// The proxy's routes.
pub(crate) fn router(proxy: Proxy) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        // A base's name may have slashes.
        .route("/v1/models/{*name}", get(model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(proxy)
}

async fn no_route(request: Request) -> Response {
    let message = format!(
        "there is no {} {}, expected /v1/models, /v1/completions or /v1/chat/completions",
        request.method(),
        request.uri().path()
    );
    fault(StatusCode::NOT_FOUND, None, &message)
}

async fn no_method(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("{path} does not take {method}");
    fault(StatusCode::METHOD_NOT_ALLOWED, None, &message)
}

async fn models(State(proxy): State<Proxy>) -> Response {
    axum::Json(json!({"object": "list", "data": proxy.cards()})).into_response()
}

async fn model(
    State(proxy): State<Proxy>,
    name: Result<UrlPath<String>, PathRejection>,
) -> Response {
    let Ok(UrlPath(name)) = name else {
        let message = "the model's name in the path is not UTF-8, expected percent-encoded UTF-8";
        return fault(StatusCode::BAD_REQUEST, Some("model"), message);
    };
    match proxy.cards().into_iter().find(|card| card["id"] == name) {
        Some(card) => axum::Json(card).into_response(),
        None => unknown(&name),
    }
}

async fn completions(State(proxy): State<Proxy>, request: Request) -> Response {
    proxy.forward("/v1/completions", request).await
}

async fn chat_completions(State(proxy): State<Proxy>, request: Request) -> Response {
    proxy.forward("/v1/chat/completions", request).await
}

impl Proxy {
    /// The names that clients may use now, as OpenAI's and vLLM's clients read them: the bases, then the aliases. Without
    /// vLLM's `root`, which is a folder of the pod.
    fn cards(&self) -> Vec<serde_json::Value> {
        let card = |served: Served| {
            json!({
                "id": served.id, "object": "model", "created": served.facts.created.unwrap_or_default(),
                "owned_by": "finetune-operator", "parent": served.parent, "max_model_len": served.facts.max_model_len,
            })
        };
        self.routes.served().into_iter().map(card).collect()
    }

    async fn forward(&self, path: &str, request: Request) -> Response {
        let start = Instant::now();
        let (label, response) = self.answer(path, request, start).await;
        self.metrics.request(&label, response.status().as_u16());
        response
    }

    /// The answer, and the label under which it counts.
    async fn answer(&self, path: &str, request: Request, start: Instant) -> (String, Response) {
        let (head, body) = request.into_parts();
        let headers = &head.headers;
        let announced = Announced {
            length: body.size_hint().exact().map(|bytes| bytes as usize),
            expects_continue: headers.contains_key(header::EXPECT),
        };
        let read = match self.bodies.read(announced, body.into_data_stream()).await {
            Ok(body) => Model::find(&body).map(|model| (model, body)),
            Err(fault) => Err(fault.into()),
        };
        let (requested, body) = match read {
            Ok(read) => read,
            Err(fault) => return (UNKNOWN.into(), refused(&fault)),
        };
        let model = requested.name.clone();
        match self.routes.resolve(&model) {
            Route::Unknown => (UNKNOWN.into(), unknown(&model)),
            Route::NotReady => {
                let label = if self.routes.is_alias(&model) {
                    model.as_str()
                } else {
                    UNKNOWN
                };
                (label.to_owned(), not_ready(&model))
            }
            Route::Base { engine } => {
                let url = format!("{engine}{path}");
                let body = body::unchanged(body);
                let response = match self.send(&url, headers, body, BASE, start).await {
                    Ok(response) => relay(response, None, None),
                    Err(response) => response,
                };
                (BASE.into(), response)
            }
            Route::Version {
                engine,
                version,
                in_flight,
            } => {
                let url = format!("{engine}{path}");
                let body = requested.replaced(body, &version);
                let response = match self.send(&url, headers, body, &model, start).await {
                    // The engine has restarted and the loop does not know it yet.
                    Ok(response) if response.status() == StatusCode::NOT_FOUND => {
                        self.nudge.notify_one();
                        not_ready(&model)
                    }
                    Ok(response) => relay(response, Some(in_flight), Some((&version, &model))),
                    Err(response) => response,
                };
                (model, response)
            }
        }
    }

    async fn send(
        &self,
        url: &str,
        headers: &HeaderMap,
        (length, pieces): (usize, Vec<Bytes>),
        label: &str,
        start: Instant,
    ) -> Result<reqwest::Response, Response> {
        let pieces = pieces.into_iter().map(Ok::<_, std::convert::Infallible>);
        let mut headers = passed_on(headers);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers
            .entry(header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("application/json"));
        let sent = self
            .client
            .post(url)
            .headers(headers)
            .body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)))
            .send()
            .await;
        match sent {
            Ok(response) => {
                self.metrics.first_byte(label, start.elapsed());
                Ok(response)
            }
            Err(error) => {
                tracing::warn!(%error, "the engine does not answer");
                self.nudge.notify_one();
                let message = "the engine does not answer; try again in a moment";
                Err(unavailable(message))
            }
        }
    }
}

/// The engine's answer as the client's, streamed, under the name that the client used.
fn relay(
    response: reqwest::Response,
    in_flight: Option<InFlight>,
    names: Option<(&str, &str)>,
) -> Response {
    let mut headers = passed_on(response.headers());
    if let Some(value) = names.and_then(|(version, _)| HeaderValue::from_str(version).ok()) {
        headers.insert(VERSION_HEADER, value);
    }
    let status = response.status();
    let textual = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| {
            kind.starts_with("application/json") || kind.starts_with("text/event-stream")
        });
    let renamer = names
        .filter(|_| textual)
        .map(|(version, alias)| Renamer::new(version, alias));
    let body = Body::from_stream(renamed(response.bytes_stream(), renamer, in_flight));
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

/// The bytes of an answer with the version's name turned back. The count of the request ends with the stream, also
/// where the client leaves early.
fn renamed(
    stream: impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static,
    renamer: Option<Renamer>,
    in_flight: Option<InFlight>,
) -> impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static {
    let state = (Box::pin(stream), renamer, in_flight);
    futures::stream::unfold(Some(state), |state| async move {
        let (mut stream, mut renamer, in_flight) = state?;
        loop {
            let Some(chunk) = stream.next().await else {
                let rest = renamer
                    .as_mut()
                    .map(Renamer::finish)
                    .filter(|rest| !rest.is_empty())?;
                return Some((Ok(rest), None));
            };
            let chunk = match (chunk, renamer.as_mut()) {
                (Ok(chunk), Some(renamer)) => renamer.push(&chunk),
                (Ok(chunk), None) => chunk,
                (Err(error), _) => return Some((Err(error), None)),
            };
            if !chunk.is_empty() {
                return Some((Ok(chunk), Some((stream, renamer, in_flight))));
            }
        }
    })
}

/// The headers that may travel on. Lengths and encodings belong to one connection, as does whatever `Connection` names
/// (RFC 9110, section 7.6.1), and the body changes.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    const STAY: [HeaderName; 12] = [
        header::ACCEPT_ENCODING,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::HOST,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let mut passed = headers.clone();
    for name in STAY {
        passed.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        passed.remove(name);
    }
    let named = headers.get_all(header::CONNECTION).iter();
    let named = named.filter_map(|value| value.to_str().ok());
    for name in named.flat_map(|value| value.split(',')) {
        passed.remove(name.trim());
    }
    passed
}

fn refused(fault: &body::Fault) -> Response {
    let message = fault.to_string();
    match fault.status() {
        StatusCode::SERVICE_UNAVAILABLE => unavailable(&message),
        status => self::fault(status, fault.field(), &message),
    }
}

fn unknown(model: &str) -> Response {
    let message = format!("the model `{model}` does not exist; /v1/models lists those that do");
    fault(StatusCode::NOT_FOUND, Some("model"), &message)
}

fn not_ready(model: &str) -> Response {
    unavailable(&format!(
        "the model `{model}` is being loaded; try again in a moment"
    ))
}

fn unavailable(message: &str) -> Response {
    let mut response = fault(StatusCode::SERVICE_UNAVAILABLE, None, message);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
    response
}

/// An error as the embedded server and vLLM write it: a client meets one form, whichever of them refuses. `field` is the one of
/// the request that is at fault.
fn fault(status: StatusCode, field: Option<&str>, message: &str) -> Response {
    let kind = match status {
        StatusCode::NOT_FOUND => "NotFoundError",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailableError",
        _ => "BadRequestError",
    };
    let error = json!({"error": {"message": message, "type": kind, "param": field, "code": status.as_u16()}});
    (status, axum::Json(error)).into_response()
}

/// The client for the engine: never through a proxy of the environment, never after a redirect.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(2))
        .build()
}
