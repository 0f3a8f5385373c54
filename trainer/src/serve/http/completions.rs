//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::stream::{self, Chunks};
use super::{Ask, Server, alternatives, answer_id, model, room, token_text};
use crate::serve::api::{
    ApiError, CompletionRequest, Prompt, Usage, completion_log_probabilities, parse,
    refuse_unsupported,
};
use crate::serve::reply::{Piece, Reply};

/// OpenAI's default.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Continues a prompt.
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let request: CompletionRequest = parse(&body)?;
    refuse_unsupported(&body)?;
    let model = model(&server, request.model.clone())?;
    let prompt = prompt(&server, request.prompt.clone())?;
    let (sampling, stops) = request.sampling().validate()?;
    let alternatives = request
        .logprobs
        .map(|count| alternatives("logprobs", count))
        .transpose()?;
    let echo = request.echo.unwrap_or(false);
    let wanted = request.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
    if wanted == 0 && !echo {
        return Err(ApiError::field(
            "max_tokens",
            "`max_tokens` is 0, expected at least 1, or `echo` to score the prompt only",
        ));
    }
    let max_new_tokens = room(&server, "prompt", prompt.len(), "max_tokens", Some(wanted))?;
    let events = server.engine.ask(Ask {
        model: model.clone(),
        prompt: prompt.clone(),
        max_new_tokens,
        sampling,
        stop_at_end_tokens: !request.ignore_eos.unwrap_or(false),
        alternatives,
        score_prompt: echo && alternatives.is_some(),
    })?;
    let mut reply = Reply::new(
        events,
        Arc::clone(&server.engine.tokenizer),
        &prompt,
        stops,
        echo,
    )?;
    let created = (server.now)();
    let mut form = Form {
        id: answer_id("cmpl"),
        created,
        model,
        with_scores: alternatives.is_some(),
        with_usage: request
            .stream_options
            .and_then(|options| options.include_usage)
            .unwrap_or(false),
        offset: 0,
        server,
    };
    if request.stream.unwrap_or(false) {
        return Ok(stream::response(reply, form));
    }
    let piece = reply.collect().await?;
    let mut answer = form.chunk(Some(piece));
    answer["usage"] = json!(reply.usage());
    Ok(Json(answer).into_response())
}

/// The prompt's tokens.
fn prompt(server: &Server, prompt: Option<Prompt>) -> Result<Vec<u32>, ApiError> {
    let single = |count: usize| match count {
        1 => Ok(()),
        count => Err(ApiError::field(
            "prompt",
            format!("`prompt` has {count} prompts, expected one; send a request for each"),
        )),
    };
    let tokenize = |text: &str| {
        let tokens = server.engine.tokenizer.encode_sequence(text);
        tokens.map_err(|error| {
            ApiError::field("prompt", format!("`prompt` cannot be tokenised: {error}"))
        })
    };
    let tokens = match prompt {
        None => {
            return Err(ApiError::field(
                "prompt",
                "`prompt` is missing, expected a string or an array of token ids",
            ));
        }
        Some(Prompt::Text(text)) => tokenize(&text)?,
        Some(Prompt::Tokens(tokens)) => tokens,
        Some(Prompt::Texts(texts)) => {
            single(texts.len())?;
            tokenize(&texts[0])?
        }
        Some(Prompt::TokenLists(mut lists)) => {
            single(lists.len())?;
            lists.swap_remove(0)
        }
    };
    let size = server.engine.config.vocabulary_size as u32;
    if let Some(token) = tokens.iter().find(|token| **token >= size) {
        return Err(ApiError::field(
            "prompt",
            format!(
                "`prompt` has the token id {token}, expected 0 to {}",
                size - 1
            ),
        ));
    }
    Ok(tokens)
}

/// The form of a completion and of its chunks, which is the same.
#[derive(Debug)]
struct Form {
    id: String,
    created: i64,
    model: String,
    with_scores: bool,
    with_usage: bool,
    /// Characters before the next token.
    offset: usize,
    server: Arc<Server>,
}

impl Form {
    fn chunk(&mut self, piece: Option<Piece>) -> Value {
        let choices: Vec<Value> = piece.into_iter().map(|piece| self.choice(&piece)).collect();
        json!({
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.model, "choices": choices,
        })
    }

    fn choice(&mut self, piece: &Piece) -> Value {
        let text = |token| token_text(&self.server, token);
        let scores = self
            .with_scores
            .then(|| completion_log_probabilities(&piece.scores, &mut self.offset, text));
        let reason = piece
            .finish
            .map(super::super::generation::FinishReason::as_str);
        json!({ "index": 0, "text": piece.text, "logprobs": scores, "finish_reason": reason })
    }
}

impl Chunks for Form {
    fn first(&mut self) -> Option<Value> {
        None
    }

    fn piece(&mut self, piece: Piece) -> Value {
        self.chunk(Some(piece))
    }

    fn usage(&mut self, usage: Usage) -> Option<Value> {
        self.with_usage.then(|| {
            let mut chunk = self.chunk(None);
            chunk["usage"] = json!(usage);
            chunk
        })
    }
}
