//! An answer as server-sent events, ended by `[DONE]`.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};

use super::error::ApiError;
use super::form::Answer;
use crate::serve::reply::Reply;

/// Where a stream stands.
enum State {
    First,
    Pieces,
    Usage,
    Done,
    End,
}

/// The reply as a stream, at whose end the usage stands where it is wanted. When the client goes away the reply is dropped, and
/// the worker stops computing it.
pub(super) fn response(reply: Reply, answer: impl Answer, with_usage: bool) -> Response {
    let events = stream::unfold(
        (reply, answer, State::First, VecDeque::<Value>::new()),
        move |(mut reply, mut answer, mut state, mut ready)| async move {
            loop {
                if let Some(value) = ready.pop_front() {
                    let event = Event::default().data(value.to_string());
                    return Some((event, (reply, answer, state, ready)));
                }
                let (values, next) = match state {
                    State::First => (answer.first().into_iter().collect(), State::Pieces),
                    State::Pieces => match reply.next().await {
                        Some(Ok(piece)) => (answer.piece(piece), State::Pieces),
                        Some(Err(error)) => (vec![ApiError::from(error).body()], State::Done),
                        None => (Vec::new(), State::Usage),
                    },
                    State::Usage => {
                        let usage = with_usage.then(|| {
                            let mut chunk = answer.empty();
                            chunk["usage"] = json!(reply.usage());
                            chunk
                        });
                        (usage.into_iter().collect(), State::Done)
                    }
                    State::Done => {
                        let done = Event::default().data("[DONE]");
                        return Some((done, (reply, answer, State::End, ready)));
                    }
                    State::End => return None,
                };
                state = next;
                ready.extend(values);
            }
        },
    );
    Sse::new(events.map(Ok::<_, Infallible>))
        .keep_alive(KeepAlive::default())
        .into_response()
}
