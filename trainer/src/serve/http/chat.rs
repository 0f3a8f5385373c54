//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::Server;
use super::answer::{self, Begun, Question, alternatives};
use super::body::Body;
use super::error::ApiError;
use super::form::{Answer, Head};
use super::room::room;
use crate::serve::api::{CHAT, ChatRequest, chat_log_probabilities, read};
use crate::serve::call_reader::{CallReader, NamedCall};
use crate::serve::conversation;
use crate::serve::generation::FinishReason;
use crate::serve::reply::Piece;
use crate::serve::request_error::RequestError;

/// Answers a conversation.
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    answer::send(&server, body, begin).await
}

/// Reads a request and queues its prompt.
fn begin(server: &Arc<Server>, body: &[u8]) -> Result<Begun<Chat>, RequestError> {
    let request: ChatRequest = read(body, &CHAT)?;
    let model = answer::model(server, request.model.as_deref())?;
    let vocabulary = server.engine.config.vocabulary_size as usize;
    let (sampling, stops) = request.sampling().validate(vocabulary)?;
    let alternatives = match (request.logprobs.unwrap_or(false), request.top_logprobs) {
        (true, count) => Some(alternatives("top_logprobs", count.unwrap_or(0))?),
        (false, None | Some(0)) => None,
        (false, Some(count)) => {
            return Err(RequestError::field(
                "top_logprobs",
                format!("`top_logprobs` is {count}, expected `logprobs` to be true with it"),
            ));
        }
    };
    let (field, wanted) = match (request.max_completion_tokens, request.max_tokens) {
        (Some(wanted), _) => ("max_completion_tokens", Some(wanted)),
        (None, wanted) => ("max_tokens", wanted),
    };
    if wanted == Some(0) {
        return Err(RequestError::field(
            field,
            format!("`{field}` is 0, expected at least 1"),
        ));
    }
    let tokenizer = &server.engine.tokenizer;
    let template = tokenizer
        .template()
        .map_err(|error| RequestError::Request(format!("{error}; or use /v1/completions")))?;
    let fits = |text: &str| server.check_length("messages", text);
    let prompt = conversation::prompt(&request, template, server.tool_calls, &fits)?;
    // The template writes the special tokens itself.
    let tokens = tokenizer.encode(&prompt.text).map_err(|error| {
        RequestError::field(
            "messages",
            format!("`messages` cannot be tokenised: {error}"),
        )
    })?;
    let max_new_tokens = room(
        server.engine.context(),
        "messages",
        tokens.len(),
        field,
        wanted,
    )?;
    let calls = match server.tool_calls.format {
        Some(format) if !prompt.functions.is_empty() => {
            let first_only = request.parallel_tool_calls == Some(false);
            Some(CallReader::new(format, prompt.functions, first_only))
        }
        _ => None,
    };
    let question = Question {
        kind: "chatcmpl",
        model,
        prompt: tokens,
        max_new_tokens,
        sampling,
        stops,
        alternatives,
        echo: false,
        calls,
    };
    answer::ask(server, request.answer(), question, |head| Chat {
        head,
        server: Arc::clone(server),
    })
}

/// A call as answers have it.
fn call(named: &NamedCall) -> Value {
    json!({
        "id": named.id,
        "type": "function",
        "function": { "name": named.call.name, "arguments": named.call.arguments },
    })
}

/// The form of an answer and of its chunks.
#[derive(Debug)]
struct Chat {
    head: Head,
    server: Arc<Server>,
}

impl Chat {
    fn scores(&self, piece: &Piece) -> Option<Value> {
        self.head.with_scores.then(|| {
            let tokenizer = &self.server.engine.tokenizer;
            chat_log_probabilities(&piece.scores, |token| tokenizer.token_bytes(token))
        })
    }

    fn chunk(&self, delta: &Value, scores: Option<&Value>, finish: Option<FinishReason>) -> Value {
        let choice = json!({
            "index": 0, "delta": delta, "logprobs": scores, "finish_reason": finish.map(FinishReason::as_str),
        });
        self.head.answer("chat.completion.chunk", &[choice])
    }
}

impl Answer for Chat {
    fn whole(&mut self, piece: Piece) -> Value {
        let mut message = json!({ "role": "assistant", "content": piece.text });
        if !piece.calls.is_empty() {
            message["tool_calls"] = piece.calls.iter().map(call).collect();
            if piece.text.is_empty() {
                message["content"] = Value::Null;
            }
        }
        let choice = json!({
            "index": 0,
            "message": message,
            "logprobs": self.scores(&piece),
            "finish_reason": piece.finish.map(FinishReason::as_str),
        });
        self.head.answer("chat.completion", &[choice])
    }

    fn first(&mut self) -> Option<Value> {
        Some(self.chunk(&json!({ "role": "assistant", "content": "" }), None, None))
    }

    fn piece(&mut self, piece: Piece) -> Vec<Value> {
        let scores = self.scores(&piece);
        let said = json!({ "content": piece.text });
        if piece.calls.is_empty() {
            return vec![self.chunk(&said, scores.as_ref(), piece.finish)];
        }
        let mut chunks = Vec::new();
        if !piece.text.is_empty() || scores.is_some() {
            chunks.push(self.chunk(&said, scores.as_ref(), None));
        }
        for (index, named) in piece.calls.iter().enumerate() {
            let mut call = call(named);
            call["index"] = json!(index);
            chunks.push(self.chunk(&json!({ "tool_calls": [call] }), None, None));
        }
        chunks.push(self.chunk(&json!({}), None, piece.finish));
        chunks
    }

    fn empty(&mut self) -> Value {
        self.head.answer("chat.completion.chunk", &[])
    }
}
