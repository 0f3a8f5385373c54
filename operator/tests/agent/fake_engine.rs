//! An engine with vLLM's API and faults to order. It is honest where it is not told otherwise: its log-probabilities
//! come from the weights in the folder that it was told to load.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use finetune_artifacts::safetensors_file::SafetensorsFile;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) const BASE: &str = "tiny";
/// What it says of its models.
pub(crate) const BASE_CREATED: u64 = 1_700_000_000;
pub(crate) const VERSION_CREATED: u64 = 1_700_000_060;
pub(crate) const CONTEXT: u64 = 128;

/// What an engine does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// Answers as the base whatever was loaded.
    SilentBase,
    /// Never answers a request to unload.
    HungUnload,
    /// Refuses each load.
    RefusedLoads,
    /// Lists its models and says that it is not well.
    DeadCore,
}

/// What it does wrong, and what it saw.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub fault: Option<Fault>,
    pub loads: Vec<String>,
    pub unloads: Vec<String>,
    pub loaded: BTreeMap<String, String>,
    /// Requests of more than a megabyte.
    pub long_requests: usize,
    /// The last request for a completion that did not come from a golden test.
    pub last_request: Option<(HeaderMap, String)>,
}

#[derive(Clone, Debug)]
pub(crate) struct FakeEngine {
    inner: Arc<Mutex<Inner>>,
    /// Streams wait here for their second half, and answers to long requests for their beginning.
    pub finish_streams: watch::Sender<bool>,
    pub port: u16,
}

impl FakeEngine {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let engine = Self {
            inner: Arc::default(),
            finish_streams: watch::Sender::new(true),
            port: listener.local_addr().unwrap().port(),
        };
        let router = Router::new()
            .route("/health", get(health))
            .route("/v1/models", get(models))
            .route("/v1/load_lora_adapter", post(load))
            .route("/v1/unload_lora_adapter", post(unload))
            .route("/v1/completions", post(completions))
            .layer(DefaultBodyLimit::disable())
            .with_state(engine.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        engine
    }

    pub(crate) fn with(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// As a new process: nothing is loaded.
    pub(crate) fn restart(&self) {
        self.with().loaded.clear();
    }
}

async fn health(State(engine): State<FakeEngine>) -> StatusCode {
    if engine.with().fault == Some(Fault::DeadCore) {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    }
}

async fn models(State(engine): State<FakeEngine>) -> Response {
    let inner = engine.with();
    let card = |id: &str, root: &str, parent: Option<&str>, created: u64| {
        json!({
            "id": id, "root": root, "parent": parent, "created": created, "max_model_len": CONTEXT,
        })
    };
    let mut data = vec![card(BASE, "/models/tiny", None, BASE_CREATED)];
    data.extend(
        inner
            .loaded
            .iter()
            .map(|(id, root)| card(id, root, Some(BASE), VERSION_CREATED)),
    );
    Json(json!({"object": "list", "data": data})).into_response()
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": {"message": message}}))).into_response()
}

async fn load(State(engine): State<FakeEngine>, Json(body): Json<Value>) -> Response {
    let mut inner = engine.with();
    let (name, path) = (
        body["lora_name"].as_str().unwrap(),
        body["lora_path"].as_str().unwrap(),
    );
    inner.loads.push(name.to_owned());
    if inner.fault == Some(Fault::RefusedLoads) {
        return refuse(StatusCode::BAD_REQUEST, "rank 64 is greater than 16");
    }
    if inner.loaded.contains_key(name) {
        return refuse(StatusCode::BAD_REQUEST, "already loaded");
    }
    if effect(path).is_none() {
        return refuse(StatusCode::NOT_FOUND, "no such adapter");
    }
    inner.loaded.insert(name.to_owned(), path.to_owned());
    "loaded".into_response()
}

async fn unload(State(engine): State<FakeEngine>, Json(body): Json<Value>) -> Response {
    let name = body["lora_name"].as_str().unwrap().to_owned();
    let hang = {
        let mut inner = engine.with();
        inner.unloads.push(name.clone());
        inner.fault == Some(Fault::HungUnload)
    };
    if hang {
        std::future::pending::<()>().await;
    }
    match engine.with().loaded.remove(&name) {
        Some(_) => "unloaded".into_response(),
        None => refuse(StatusCode::NOT_FOUND, "not loaded"),
    }
}

async fn completions(
    State(engine): State<FakeEngine>,
    headers: HeaderMap,
    text: String,
) -> Response {
    if text.len() > 1 << 20 {
        // Values of so many numbers would fill the test's memory.
        engine.with().long_requests += 1;
        let mut finish = engine.finish_streams.subscribe();
        finish.wait_for(|finish| *finish).await.unwrap();
        return Json(json!({"model": BASE, "choices": [{"text": "long"}]})).into_response();
    }
    let body: Value = serde_json::from_str(&text).unwrap();
    if body["logprobs"].is_null() {
        engine.with().last_request = Some((headers, text));
    }
    let model = body["model"].as_str().unwrap_or(BASE).to_owned();
    let shift = {
        let inner = engine.with();
        match inner.loaded.get(&model) {
            _ if model == BASE => 0.0,
            None => return refuse(StatusCode::NOT_FOUND, "no such model"),
            Some(_) if inner.fault == Some(Fault::SilentBase) => 0.0,
            Some(path) => effect(path).unwrap(),
        }
    };
    if body["stream"] == true {
        return stream(&model, engine.finish_streams.subscribe());
    }
    let mut choice = json!({"index": 0, "text": format!("shift {shift}")});
    if let Some(tokens) = body["prompt"].as_array() {
        let probability = |token: &Value| base_log_probability(token.as_u64().unwrap()) + shift;
        let mut values = vec![Value::Null];
        values.extend(tokens[1..].iter().map(|token| json!(probability(token))));
        values.push(json!(-0.5));
        choice["logprobs"] = json!({"token_logprobs": values});
    }
    Json(json!({"object": "text_completion", "model": model, "choices": [choice]})).into_response()
}

/// Two events; the second one waits until streams may finish.
fn stream(model: &str, mut finish: watch::Receiver<bool>) -> Response {
    let event = format!(
        "data: {}\n\n",
        json!({"model": model, "choices": [{"text": "word"}]})
    );
    let second = event.clone();
    let first = futures::stream::once(async move { event });
    let rest = futures::stream::once(async move {
        finish.wait_for(|finish| *finish).await.unwrap();
        format!("{second}data: [DONE]\n\n")
    });
    let body = Body::from_stream(first.chain(rest).map(Ok::<_, std::io::Error>));
    ([("content-type", "text/event-stream; charset=utf-8")], body).into_response()
}

pub(crate) fn base_log_probability(token: u64) -> f64 {
    -1.0 - (token % 7) as f64 / 10.0
}

/// What the adapter in a folder adds to each log-probability: the first number of its B.
fn effect(folder: &str) -> Option<f64> {
    let file = SafetensorsFile::open(&Path::new(folder).join("adapter_model.safetensors")).ok()?;
    let name = file
        .names()
        .find(|name| name.contains("lora_B"))?
        .to_owned();
    let values = file.tensor(&name).ok()?.to_f32()?;
    values.first().map(|value| f64::from(*value))
}

/// Longer than the loop's period, for what must not happen.
pub(crate) const SETTLE: Duration = Duration::from_millis(2500);
