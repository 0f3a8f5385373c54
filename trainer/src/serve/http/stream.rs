//! An answer as server-sent events, ended by `[DONE]`.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream;
use serde_json::Value;

use crate::serve::api::Usage;
use crate::serve::reply::{Piece, Reply};

/// The chunks of one stream.
pub(super) trait Chunks: Send + 'static {
    /// What is sent before the first piece.
    fn first(&mut self) -> Option<Value>;
    /// One piece, in one chunk or several.
    fn piece(&mut self, piece: Piece) -> Vec<Value>;
    /// What is sent after the last piece, where the client asked for the usage.
    fn usage(&mut self, usage: Usage) -> Option<Value>;
}

/// Where a stream stands.
enum State {
    First,
    Pieces,
    Usage,
    Done,
    End,
}

/// The reply as a stream. When the client goes away the reply is dropped, and the worker stops computing it.
pub(super) fn response(reply: Reply, chunks: impl Chunks) -> Response {
    let events = stream::unfold(
        (reply, chunks, State::First, VecDeque::<Value>::new()),
        async |(mut reply, mut chunks, mut state, mut ready)| {
            loop {
                if let Some(value) = ready.pop_front() {
                    let event = Event::default().data(value.to_string());
                    return Some((event, (reply, chunks, state, ready)));
                }
                let (values, next) = match state {
                    State::First => (chunks.first().into_iter().collect(), State::Pieces),
                    State::Pieces => match reply.next().await {
                        Some(Ok(piece)) => (chunks.piece(piece), State::Pieces),
                        Some(Err(error)) => (vec![error.body()], State::Done),
                        None => (Vec::new(), State::Usage),
                    },
                    State::Usage => {
                        let usage = chunks.usage(reply.usage());
                        (usage.into_iter().collect(), State::Done)
                    }
                    State::Done => {
                        let done = Event::default().data("[DONE]");
                        return Some((done, (reply, chunks, State::End, ready)));
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
