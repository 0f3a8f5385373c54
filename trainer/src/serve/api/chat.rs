//! `POST /v1/chat/completions`: the request, and log-probabilities in its form.

use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiError;
use super::completion::finite;
use super::fields::{SamplingFields, Stop, StreamOptions};
use crate::serve::generation::TokenScore;

/// One turn.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ChatMessage {
    pub(crate) role: String,
    pub(crate) content: Option<Content>,
}

/// What was said: a text, or parts of which all must be text.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string or an array of parts with `type` and `text`"
)]
pub(crate) enum Content {
    /// A text.
    Text(String),
    /// Parts.
    Parts(Vec<Part>),
}

/// A part of a turn.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Part {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) text: Option<String>,
}

/// The request.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ChatRequest {
    pub(crate) model: Option<String>,
    pub(crate) messages: Option<Vec<ChatMessage>>,
    pub(crate) logprobs: Option<bool>,
    pub(crate) top_logprobs: Option<usize>,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) max_completion_tokens: Option<usize>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<Stop>,
}

impl ChatRequest {
    /// The fields of sampling.
    pub(crate) fn sampling(&self) -> SamplingFields {
        SamplingFields {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            seed: self.seed,
            stop: self.stop.clone(),
        }
    }

    /// The turns as (role, text), or the first one that is not text.
    pub(crate) fn turns(&self) -> Result<Vec<(String, String)>, ApiError> {
        let messages = self.messages.as_deref().unwrap_or_default();
        if messages.is_empty() {
            return Err(ApiError::field(
                "messages",
                "`messages` is missing or empty, expected at least one turn",
            ));
        }
        let turns = messages
            .iter()
            .enumerate()
            .map(|(index, message)| Ok((message.role.clone(), message.text(index)?)));
        turns.collect()
    }
}

impl ChatMessage {
    fn text(&self, index: usize) -> Result<String, ApiError> {
        match &self.content {
            Some(Content::Text(text)) => Ok(text.clone()),
            Some(Content::Parts(parts)) => {
                let texts = parts.iter().map(|part| match (part.kind.as_str(), &part.text) {
                    ("text", Some(text)) => Ok(text.as_str()),
                    (kind, _) => Err(ApiError::field(
                        "messages",
                        format!("`messages[{index}].content` has a part of type `{kind}`, expected parts of type `text` with a `text`"),
                    )),
                });
                Ok(texts.collect::<Result<Vec<_>, _>>()?.concat())
            }
            None => Err(ApiError::field(
                "messages",
                format!("`messages[{index}].content` is missing, expected a text"),
            )),
        }
    }
}

/// `logprobs` of a chat's answer: one object a token. `text` is a token's own text.
pub(crate) fn chat_log_probabilities(scores: &[TokenScore], text: impl Fn(u32) -> String) -> Value {
    let entry = |token: u32, value: f64| {
        let text = text(token);
        let bytes = text.as_bytes().to_vec();
        json!({ "token": text, "logprob": finite(value), "bytes": bytes })
    };
    let content = scores.iter().map(|score| {
        let mut item = entry(score.token, score.log_probability.unwrap_or_default());
        item["top_logprobs"] = score
            .alternatives
            .iter()
            .map(|(token, value)| entry(*token, *value))
            .collect();
        item
    });
    json!({ "content": content.collect::<Vec<_>>() })
}
