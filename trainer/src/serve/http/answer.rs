//! What chats and completions have in common on the way from a request to its answer.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Server;
use super::error::ApiError;
use super::form::{Answer, Head};
use super::stream;
use crate::serve::api::{AnswerFields, Delivery, Stops};
use crate::serve::call_reader::CallReader;
use crate::serve::engine::Ask;
use crate::serve::reply::{Form, Reply};
use crate::serve::request_error::RequestError;
use crate::serve::sampling::Sampling;
use crate::serve::stops::StopStrings;

/// The most alternatives with log-probabilities.
const MAX_ALTERNATIVES: usize = 20;

/// An answer on its way, and how it is sent.
pub(super) struct Begun<A> {
    reply: Reply,
    answer: A,
    delivery: Delivery,
}

/// Reads a request with `begin`, and sends the answer whole or as a stream.
pub(super) async fn send<A: Answer>(
    server: &Arc<Server>,
    body: Bytes,
    begin: impl FnOnce(&Arc<Server>, &[u8]) -> Result<Begun<A>, RequestError> + Send + 'static,
) -> Result<Response, ApiError> {
    let begin = move |server: &Arc<Server>| begin(server, &body);
    let Begun {
        mut reply,
        mut answer,
        delivery,
    } = server.prepare(begin).await?;
    match delivery {
        Delivery::Stream { with_usage } => Ok(stream::response(reply, answer, with_usage)),
        Delivery::Whole => {
            let piece = reply.collect().await?;
            let mut whole = answer.whole(piece);
            whole["usage"] = json!(reply.usage());
            Ok(Json(whole).into_response())
        }
    }
}

/// What a request asks, read and found good.
pub(super) struct Question {
    /// What the ids of its answers begin with.
    pub(super) kind: &'static str,
    /// Who answers.
    pub(super) model: String,
    /// The prompt's tokens.
    pub(super) prompt: Vec<u32>,
    pub(super) max_new_tokens: usize,
    pub(super) sampling: Sampling,
    pub(super) stops: Stops,
    pub(super) alternatives: Option<usize>,
    /// Whether the answer begins with the prompt.
    pub(super) echo: bool,
    /// What reads calls of functions.
    pub(super) calls: Option<CallReader>,
}

/// Queues a question, whose request says `fields` of the answer. `form` is the answer's form below its head.
pub(super) fn ask<A>(
    server: &Arc<Server>,
    fields: AnswerFields,
    question: Question,
    form: impl FnOnce(Head) -> A,
) -> Result<Begun<A>, RequestError> {
    let own_ends = !fields.ignore_eos;
    let ends_in_text = fields.include_stop_str_in_output;
    let stops = question.stops;
    let (end_tokens, end_tokens_in_text) = server.end_tokens(own_ends, &stops.tokens, ends_in_text);
    let with_scores = question.alternatives.is_some();
    let reply = server.ask(
        Ask {
            model: question.model.clone(),
            prompt: question.prompt,
            max_new_tokens: question.max_new_tokens,
            sampling: question.sampling,
            stop_at_end_tokens: own_ends,
            stop_token_ids: stops.tokens,
            alternatives: question.alternatives,
            score_prompt: question.echo && with_scores,
        },
        Form {
            stops: StopStrings::new(stops.strings, ends_in_text),
            end_tokens,
            end_tokens_in_text,
            special_tokens: fields.special_tokens,
            echo: question.echo,
            calls: question.calls,
        },
    )?;
    let head = Head {
        // A name that no other answer has.
        id: format!("{}-{:032x}", question.kind, rand::random::<u128>()),
        created: (server.now)(),
        model: question.model,
        with_scores,
    };
    Ok(Begun {
        reply,
        answer: form(head),
        delivery: fields.delivery,
    })
}

/// The name in `model`, if it is served. Absent means the base, as in vLLM.
pub(super) fn model(server: &Server, model: Option<&str>) -> Result<String, RequestError> {
    let model = model
        .filter(|model| !model.is_empty())
        .unwrap_or(&server.name);
    server.engine.check_model(model)?;
    Ok(model.to_owned())
}

/// The number of alternatives, if it is one that is served.
pub(super) fn alternatives(field: &str, count: usize) -> Result<usize, RequestError> {
    if count > MAX_ALTERNATIVES {
        return Err(RequestError::field(
            field,
            format!("`{field}` is {count}, expected at most {MAX_ALTERNATIVES}"),
        ));
    }
    Ok(count)
}
