//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use finetune_artifacts::rows::Message;
use serde_json::{Value, json};

use super::stream::{self, Chunks};
use super::{Ask, Server, alternatives, answer_id, model, room, token_text};
use crate::serve::api::{
    ApiError, ChatRequest, Usage, chat_log_probabilities, parse, refuse_unsupported,
};
use crate::serve::generation::FinishReason;
use crate::serve::reply::{Piece, Reply};

/// Answers a conversation.
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request: ChatRequest = parse(&body)?;
    refuse_unsupported(&body)?;
    let model = model(&server, request.model.clone())?;
    let prompt = prompt(&server, &request)?;
    let (sampling, stops) = request.sampling().validate()?;
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
    let max_new_tokens = room(&server, "messages", prompt.len(), field, wanted)?;
    let events = server.engine.ask(Ask {
        model: model.clone(),
        prompt: prompt.clone(),
        max_new_tokens,
        sampling,
        stop_at_end_tokens: !request.ignore_eos.unwrap_or(false),
        alternatives,
        score_prompt: false,
    })?;
    let mut reply = Reply::new(
        events,
        Arc::clone(&server.engine.tokenizer),
        &prompt,
        stops,
        false,
    )?;
    let created = (server.now)();
    let form = Form {
        id: answer_id("chatcmpl"),
        created,
        model,
        with_scores: alternatives.is_some(),
        with_usage: request
            .stream_options
            .and_then(|options| options.include_usage)
            .unwrap_or(false),
        server,
    };
    if request.stream.unwrap_or(false) {
        return Ok(stream::response(reply, form));
    }
    let piece = reply.collect().await?;
    let choice = json!({
        "index": 0,
        "message": { "role": "assistant", "content": piece.text },
        "logprobs": form.scores(&piece),
        "finish_reason": piece.finish.map(FinishReason::as_str),
    });
    let mut answer = form.answer("chat.completion", &[choice]);
    answer["usage"] = json!(reply.usage());
    Ok(Json(answer).into_response())
}

/// The conversation's tokens, by the model's own template. The template writes the special tokens itself.
fn prompt(server: &Server, request: &ChatRequest) -> Result<Vec<u32>, ApiError> {
    let turns = request
        .turns()?
        .into_iter()
        .map(|(role, content)| Message::new(role, content));
    let tokenizer = &server.engine.tokenizer;
    let template = tokenizer
        .template()
        .map_err(|error| ApiError::bad_request(format!("{error}; or use /v1/completions")))?;
    let text = template.render(&turns.collect::<Vec<_>>(), &[], true);
    let text = text.map_err(|error| ApiError::field("messages", format!("`messages`: {error}")))?;
    let tokens = tokenizer.encode(&text);
    tokens.map_err(|error| {
        ApiError::field(
            "messages",
            format!("`messages` cannot be tokenised: {error}"),
        )
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
        self.with_scores
            .then(|| chat_log_probabilities(&piece.scores, |token| token_text(&self.server, token)))
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

    fn piece(&mut self, piece: Piece) -> Value {
        self.chunk(
            &json!({ "content": piece.text }),
            self.scores(&piece).as_ref(),
            piece.finish,
        )
    }

    fn usage(&mut self, usage: Usage) -> Option<Value> {
        self.with_usage.then(|| {
            let mut chunk = self.answer("chat.completion.chunk", &[]);
            chunk["usage"] = json!(usage);
            chunk
        })
    }
}
