//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::stream::{self, Chunks};
use super::{Ask, Body, Server, alternatives, answer_id, model, room};
use crate::serve::api::{ApiError, CHAT, ChatRequest, Usage, chat_log_probabilities, read};
use crate::serve::call_reader::{CallReader, NamedCall};
use crate::serve::conversation;
use crate::serve::generation::FinishReason;
use crate::serve::reply::{self, Piece, Reply};
use crate::serve::stops::StopStrings;

/// Answers a conversation.
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let begin = move |server: &Arc<Server>| begin(server, &body);
    let (mut reply, form, stream) = server.prepare(begin).await?;
    if stream {
        return Ok(stream::response(reply, form));
    }
    let piece = reply.collect().await?;
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
        "logprobs": form.scores(&piece),
        "finish_reason": piece.finish.map(FinishReason::as_str),
    });
    let mut answer = form.answer("chat.completion", &[choice]);
    answer["usage"] = json!(reply.usage());
    Ok(Json(answer).into_response())
}

/// Reads a request and queues its prompt; says too whether the answer is to be a stream.
fn begin(server: &Arc<Server>, body: &[u8]) -> Result<(Reply, Form, bool), ApiError> {
    let request: ChatRequest = read(body, &CHAT)?;
    let model = model(server, request.model.clone())?;
    let vocabulary = server.engine.config.vocabulary_size as usize;
    let (sampling, stops) = request.sampling().validate(vocabulary)?;
    let alternatives = match (request.logprobs.unwrap_or(false), request.top_logprobs) {
        (true, count) => Some(alternatives("top_logprobs", count.unwrap_or(0))?),
        (false, None | Some(0)) => None,
        (false, Some(count)) => {
            return Err(ApiError::field(
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
        return Err(ApiError::field(
            field,
            format!("`{field}` is 0, expected at least 1"),
        ));
    }
    let tokenizer = &server.engine.tokenizer;
    let template = tokenizer
        .template()
        .map_err(|error| ApiError::bad_request(format!("{error}; or use /v1/completions")))?;
    let fits = |text: &str| server.check_length("messages", text);
    let prompt = conversation::prompt(&request, template, server.tool_calls, &fits)?;
    // The template writes the special tokens itself.
    let tokens = tokenizer.encode(&prompt.text).map_err(|error| {
        ApiError::field(
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
    let own_ends = !request.ignore_eos.unwrap_or(false);
    let ends_in_text = request.include_stop_str_in_output.unwrap_or(false);
    let (end_tokens, end_tokens_in_text) = server.end_tokens(own_ends, &stops.tokens, ends_in_text);
    let calls = match server.tool_calls.format {
        Some(format) if !prompt.functions.is_empty() => {
            let first_only = request.parallel_tool_calls == Some(false);
            Some(CallReader::new(format, prompt.functions, first_only))
        }
        _ => None,
    };
    let reply = server.ask(
        Ask {
            model: model.clone(),
            prompt: tokens,
            max_new_tokens,
            sampling,
            stop_at_end_tokens: own_ends,
            stop_token_ids: stops.tokens,
            alternatives,
            score_prompt: false,
        },
        reply::Form {
            stops: StopStrings::new(stops.strings, ends_in_text),
            end_tokens,
            end_tokens_in_text,
            special_tokens: request.skip_special_tokens == Some(false),
            echo: false,
            calls,
        },
    )?;
    let form = Form {
        id: answer_id("chatcmpl"),
        created: (server.now)(),
        model,
        with_scores: alternatives.is_some(),
        with_usage: request
            .stream_options
            .and_then(|options| options.include_usage)
            .unwrap_or(false),
        server: Arc::clone(server),
    };
    Ok((reply, form, request.stream.unwrap_or(false)))
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
struct Form {
    id: String,
    created: i64,
    model: String,
    with_scores: bool,
    with_usage: bool,
    server: Arc<Server>,
}

impl Form {
    fn answer(&self, object: &str, choices: &[Value]) -> Value {
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices })
    }

    fn scores(&self, piece: &Piece) -> Option<Value> {
        self.with_scores.then(|| {
            let tokenizer = &self.server.engine.tokenizer;
            chat_log_probabilities(&piece.scores, |token| tokenizer.token_bytes(token))
        })
    }

    fn chunk(&self, delta: &Value, scores: Option<&Value>, finish: Option<FinishReason>) -> Value {
        let choice = json!({
            "index": 0, "delta": delta, "logprobs": scores, "finish_reason": finish.map(FinishReason::as_str),
        });
        self.answer("chat.completion.chunk", &[choice])
    }
}

impl Chunks for Form {
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

    fn usage(&mut self, usage: Usage) -> Option<Value> {
        self.with_usage.then(|| {
            let mut chunk = self.answer("chat.completion.chunk", &[]);
            chunk["usage"] = json!(usage);
            chunk
        })
    }
}
