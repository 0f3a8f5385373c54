//! `POST /v1/completions`.

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
use crate::serve::api::{
    COMPLETION, CompletionRequest, Prompt, completion_log_probabilities, read,
};
use crate::serve::generation::FinishReason;
use crate::serve::reply::Piece;
use crate::serve::request_error::RequestError;

/// OpenAI's default.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Continues a prompt.
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    Body(body): Body,
) -> Result<Response, ApiError> {
    answer::send(&server, body, begin).await
}

/// Reads a request and queues its prompt.
fn begin(server: &Arc<Server>, body: &[u8]) -> Result<Begun<Completion>, RequestError> {
    let request: CompletionRequest = read(body, &COMPLETION)?;
    let model = answer::model(server, request.model.as_deref())?;
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
        return Err(RequestError::field(
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
    let question = Question {
        kind: "cmpl",
        model,
        prompt,
        max_new_tokens,
        sampling,
        stops,
        alternatives,
        echo,
        calls: None,
    };
    answer::ask(server, request.answer(), question, |head| Completion {
        head,
        offset: 0,
        server: Arc::clone(server),
    })
}

/// The prompt's tokens.
fn prompt(
    server: &Server,
    prompt: Option<Prompt>,
    special: bool,
) -> Result<Vec<u32>, RequestError> {
    let single = |count: usize| match count {
        1 => Ok(()),
        count => Err(RequestError::field(
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
            RequestError::field("prompt", format!("`prompt` cannot be tokenised: {error}"))
        })
    };
    let tokens = match prompt {
        None => {
            return Err(RequestError::field(
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
        return Err(RequestError::field(
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
struct Completion {
    head: Head,
    /// Characters before the next token.
    offset: usize,
    server: Arc<Server>,
}

impl Answer for Completion {
    fn whole(&mut self, piece: Piece) -> Value {
        let tokenizer = &self.server.engine.tokenizer;
        let text = |token| String::from_utf8_lossy(&tokenizer.token_bytes(token)).into_owned();
        let scores = self
            .head
            .with_scores
            .then(|| completion_log_probabilities(&piece.scores, &mut self.offset, text));
        let reason = piece.finish.map(FinishReason::as_str);
        let choice =
            json!({ "index": 0, "text": piece.text, "logprobs": scores, "finish_reason": reason });
        self.head.answer("text_completion", &[choice])
    }

    fn first(&mut self) -> Option<Value> {
        None
    }

    fn piece(&mut self, piece: Piece) -> Vec<Value> {
        vec![self.whole(piece)]
    }

    fn empty(&mut self) -> Value {
        self.head.answer("text_completion", &[])
    }
}
