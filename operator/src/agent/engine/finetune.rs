//! `trainer serve`, which speaks the API of vLLM: `/v1/models`, `/v1/load_lora_adapter`, `/v1/unload_lora_adapter` and
//! `/v1/completions`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{EngineError, Facts, Model};

/// Listing is a look into memory; more than this is a fault.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);
/// A large adapter from a cold disk takes seconds.
const LOAD_TIMEOUT: Duration = Duration::from_mins(2);
/// An engine may wait for running requests first; one that hangs must not hold up the rest.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(20);
/// A golden sample is short, but a busy engine queues it.
const COMPLETION_TIMEOUT: Duration = Duration::from_mins(1);

/// The engine beside the agent.
#[derive(Clone, Debug)]
pub(crate) struct FinetuneEngine {
    client: reqwest::Client,
    base: String,
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<ModelCard>,
}

#[derive(Deserialize)]
struct ModelCard {
    id: String,
    root: Option<String>,
    parent: Option<String>,
    // Whatever stands here, the rest of the list counts: pods are ready by it.
    #[serde(default)]
    created: Value,
    #[serde(default)]
    max_model_len: Value,
}

impl FinetuneEngine {
    /// An engine at `base`, such as `http://127.0.0.1:8000`.
    pub(crate) fn new(client: reqwest::Client, base: String) -> Self {
        Self { client, base }
    }

    /// Where it listens.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Whether the engine says that it is well. A list of models alone may come from a front end whose core is dead.
    pub(crate) async fn health(&self) -> Result<(), EngineError> {
        let request = self.client.get(self.url("/health")).timeout(LIST_TIMEOUT);
        self.send("GET /health", request).await.map(drop)
    }

    /// All models, base and adapters.
    pub(crate) async fn models(&self) -> Result<Vec<Model>, EngineError> {
        const REQUEST: &str = "GET /v1/models";
        let request = self
            .client
            .get(self.url("/v1/models"))
            .timeout(LIST_TIMEOUT);
        let text = self.send(REQUEST, request).await?;
        let list: ModelList =
            serde_json::from_str(&text).map_err(|error| EngineError::Garbled {
                request: REQUEST,
                problem: error.to_string(),
            })?;
        let model = |card: ModelCard| Model {
            id: card.id,
            root: card.root,
            parent: card.parent,
            facts: Facts {
                created: card.created.as_i64(),
                max_model_len: card.max_model_len.as_u64(),
            },
        };
        Ok(list.data.into_iter().map(model).collect())
    }

    /// Loads an adapter from an absolute path; a relative one would be fetched from a hub.
    pub(crate) async fn load(&self, name: &str, path: &str) -> Result<(), EngineError> {
        let body = json!({"lora_name": name, "lora_path": path});
        self.post(
            "POST /v1/load_lora_adapter",
            "/v1/load_lora_adapter",
            &body,
            LOAD_TIMEOUT,
        )
        .await
        .map(drop)
    }

    /// Unloads an adapter.
    pub(crate) async fn unload(&self, name: &str) -> Result<(), EngineError> {
        let body = json!({"lora_name": name});
        self.post(
            "POST /v1/unload_lora_adapter",
            "/v1/unload_lora_adapter",
            &body,
            UNLOAD_TIMEOUT,
        )
        .await
        .map(drop)
    }

    /// Natural log-probabilities that `model` gives tokens 1..n, n − 1 of them.
    pub(crate) async fn log_probabilities(
        &self,
        model: &str,
        tokens: &[u32],
    ) -> Result<Vec<f64>, EngineError> {
        const REQUEST: &str = "POST /v1/completions";
        let body = json!({
            "model": model,
            "prompt": tokens,
            "echo": true,
            "logprobs": 1,
            "max_tokens": 1,
            "temperature": 0,
        });
        let text = self
            .post(REQUEST, "/v1/completions", &body, COMPLETION_TIMEOUT)
            .await?;
        let garbled = |problem: String| EngineError::Garbled {
            request: REQUEST,
            problem,
        };
        let value: Value =
            serde_json::from_str(&text).map_err(|error| garbled(error.to_string()))?;
        let list = value
            .pointer("/choices/0/logprobs/token_logprobs")
            .and_then(Value::as_array)
            .ok_or_else(|| garbled("it has no choices[0].logprobs.token_logprobs".into()))?;
        // The first token has no probability; the token made on top of the prompt is not asked about.
        let numbers: Option<Vec<f64>> = list
            .get(1..tokens.len())
            .and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers.ok_or_else(|| {
            garbled(format!(
                "expected a log-probability for each of {} tokens but the first, found {} entries",
                tokens.len(),
                list.len()
            ))
        })
    }

    async fn post(
        &self,
        request: &'static str,
        path: &str,
        body: &Value,
        timeout: Duration,
    ) -> Result<String, EngineError> {
        let builder = self.client.post(self.url(path)).json(body).timeout(timeout);
        self.send(request, builder).await
    }

    async fn send(
        &self,
        request: &'static str,
        builder: reqwest::RequestBuilder,
    ) -> Result<String, EngineError> {
        let unreachable = |error: reqwest::Error| EngineError::Unreachable {
            url: self.base.clone(),
            cause: root(&error),
            slow: error.is_timeout(),
        };
        let response = builder.send().await.map_err(unreachable)?;
        let status = response.status();
        let text = response.text().await.map_err(unreachable)?;
        if status.is_success() {
            return Ok(text);
        }
        Err(EngineError::Refused {
            request,
            status: status.as_u16(),
            message: message(&text),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

/// What the engine says in an error's body, nested or flat or plain, cut to what a condition can carry.
fn message(body: &str) -> String {
    let value: Option<Value> = serde_json::from_str(body).ok();
    let said = value.as_ref().and_then(|value| {
        let nested = value.pointer("/error/message");
        nested.or_else(|| value.get("message"))?.as_str()
    });
    said.unwrap_or(body).chars().take(300).collect()
}

/// The innermost cause: reqwest's own text only repeats the URL.
fn root(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::message;

    #[rstest::rstest]
    #[case::nested(r#"{"error":{"message":"rank too great"}}"#)]
    #[case::flat(r#"{"message":"rank too great"}"#)]
    #[case::plain("rank too great")]
    fn an_engine_is_understood_in_every_form_of_its_errors(#[case] body: &str) {
        assert_eq!(message(body), "rank too great");
    }
}
