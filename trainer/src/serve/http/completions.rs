//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::stream::{self, Chunks};
use super::{Ask, Body, Server, alternatives, answer_id, model, room};
use crate::serve::api::{
    ApiError, COMPLETION, CompletionRequest, Prompt, Usage, completion_log_probabilities, read,
};
use crate::serve::generation::FinishReason;
use crate::serve::reply::{self, Piece, Reply};
use crate::serve::stops::StopStrings;

/// OpenAI's default.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Continues a prompt.
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let begin = move |server: &Arc<Server>| begin(server, &body);
    let (mut reply, mut form, stream) = server.prepare(begin).await?;
    if stream {
        return Ok(stream::response(reply, form));
    }
    let piece = reply.collect().await?;
    let mut answer = form.chunk(Some(piece));
    answer["usage"] = json!(reply.usage());
    Ok(Json(answer).into_response())
}

/// Reads a request and queues its prompt; says too whether the answer is to be a stream.
fn begin(server: &Arc<Server>, body: &[u8]) -> Result<(Reply, Form, bool), ApiError> {
    let request: CompletionRequest = read(body, &COMPLETION)?;
    let model = model(server, request.model.clone())?;
    let special = request.add_special_tokens.unwrap_or(true);
    let prompt = prompt(server, request.prompt.clone(), special)?;
    let vocabulary = server.engine.config.vocabulary_size as usize;
    let (sampling, stops) = request.sampling().validate(vocabulary)?;
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
    let max_new_tokens = room(
        server.engine.context(),
        "prompt",
        prompt.len(),
        "max_tokens",
        Some(wanted),
    )?;
    let own_ends = !request.ignore_eos.unwrap_or(false);
    let ends_in_text = request.include_stop_str_in_output.unwrap_or(false);
    let (end_tokens, end_tokens_in_text) = server.end_tokens(own_ends, &stops.tokens, ends_in_text);
    let reply = server.ask(
        Ask {
            model: model.clone(),
            prompt,
            max_new_tokens,
            sampling,
            stop_at_end_tokens: own_ends,
            stop_token_ids: stops.tokens,
            alternatives,
            score_prompt: echo && alternatives.is_some(),
        },
        reply::Form {
            stops: StopStrings::new(stops.strings, ends_in_text),
            end_tokens,
            end_tokens_in_text,
            special_tokens: request.skip_special_tokens == Some(false),
            echo,
            calls: None,
        },
    )?;
    let form = Form {
        id: answer_id("cmpl"),
        created: (server.now)(),
        model,
        with_scores: alternatives.is_some(),
        with_usage: request
            .stream_options
            .and_then(|options| options.include_usage)
            .unwrap_or(false),
        offset: 0,
        server: Arc::clone(server),
    };
    Ok((reply, form, request.stream.unwrap_or(false)))
}

/// The prompt's tokens.
fn prompt(server: &Server, prompt: Option<Prompt>, special: bool) -> Result<Vec<u32>, ApiError> {
    let single = |count: usize| match count {
        1 => Ok(()),
        count => Err(ApiError::field(
            "prompt",
            format!("`prompt` has {count} prompts, expected one; send a request for each"),
        )),
    };
    let tokenize = |text: &str| {
        server.check_length("prompt", text)?;
        let tokenizer = &server.engine.tokenizer;
        let tokens = match special {
            true => tokenizer.encode_sequence(text),
            false => tokenizer.encode(text),
        };
        tokens.map_err(|error| {
            ApiError::field("prompt", format!("`prompt` cannot be tokenised: {error}"))
        })
    };
    let tokens = match prompt {
        None => {
            return Err(ApiError::field(
                "prompt",
                "`prompt` is missing, expected a string or a list of token ids",
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
        let tokenizer = &self.server.engine.tokenizer;
        let text = |token| String::from_utf8_lossy(&tokenizer.token_bytes(token)).into_owned();
        let scores = self
            .with_scores
            .then(|| completion_log_probabilities(&piece.scores, &mut self.offset, text));
        let reason = piece.finish.map(FinishReason::as_str);
        json!({ "index": 0, "text": piece.text, "logprobs": scores, "finish_reason": reason })
    }
}

impl Chunks for Form {
    fn first(&mut self) -> Option<Value> {
        None
    }

    fn piece(&mut self, piece: Piece) -> Vec<Value> {
        vec![self.chunk(Some(piece))]
    }

    fn usage(&mut self, usage: Usage) -> Option<Value> {
        self.with_usage.then(|| {
            let mut chunk = self.chunk(None);
            chunk["usage"] = json!(usage);
            chunk
        })
    }
}
