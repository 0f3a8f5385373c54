//! An API server for tests: a function answers each request, and every request is recorded.

mod asked;
mod rights;

use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use kube::runtime::events::{Recorder, Reporter};
use serde_json::Value;

use super::context::{Backoff, Context};
use super::metrics::Metrics;
use super::poll::PodReader;
use super::server::Readiness;
use crate::settings::OperatorSettings;

pub(crate) use asked::Asked;

/// What was asked so far.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<Asked>>>);

impl Record {
    /// Everything so far, as `METHOD path`.
    pub(crate) fn lines(&self) -> Vec<String> {
        let asked = self.0.lock().unwrap();
        asked
            .iter()
            .map(|asked| format!("{} {}", asked.method, asked.path))
            .collect()
    }

    /// Only what would change something.
    pub(crate) fn writes(&self) -> Vec<Asked> {
        let asked = self.0.lock().unwrap();
        asked
            .iter()
            .filter(|asked| asked.method != "GET")
            .cloned()
            .collect()
    }
}

/// A client whose requests `answer` answers, with a status and a body.
pub(crate) fn client(
    answer: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static,
) -> (Client, Record) {
    let record = Record::default();
    let (answer, recorded) = (Arc::new(answer), record.clone());
    let service = tower::service_fn(move |request: Request<Body>| {
        let (answer, recorded) = (Arc::clone(&answer), recorded.clone());
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let asked = Asked {
                method: head.method.to_string(),
                path: head.uri.path().to_owned(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&bytes).unwrap_or_default(),
            };
            rights::check(&asked);
            recorded.0.lock().unwrap().push(asked.clone());
            if asked.query.contains("watch=true") {
                // Nobody waits for what never comes, and nobody asks without pause.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            let (status, body) = answer(&asked);
            let response = Response::builder()
                .status(status)
                .body(Body::from(body.to_string().into_bytes()));
            Ok::<_, tower::BoxError>(response?)
        }
    });
    (Client::new(service, "operator"), record)
}

/// The body of a refusal.
pub(crate) fn refusal(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message
    });
    (code, body)
}

/// A context around such a client, at a fixed time.
pub(crate) fn context(client: Client, settings: OperatorSettings) -> Context {
    Context {
        recorder: Recorder::new(client.clone(), Reporter::from("test".to_owned())),
        client,
        now: || Timestamp::from_second(1_767_225_600).unwrap(),
        metrics: Metrics::new().unwrap(),
        readiness: Readiness::default(),
        pods: PodReader::new().unwrap(),
        settings,
        watch: kube::runtime::watcher::Config::default(),
        backoff: Backoff::default(),
    }
}
