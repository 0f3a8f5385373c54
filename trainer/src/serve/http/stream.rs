//! An answer as server-sent events, ended by `[DONE]`.

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
    /// One piece.
    fn piece(&mut self, piece: Piece) -> Value;
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
        (reply, chunks, State::First),
        async |(mut reply, mut chunks, mut state)| {
            loop {
                let (value, next) = match state {
                    State::First => (chunks.first(), State::Pieces),
                    State::Pieces => match reply.next().await {
                        Some(Ok(piece)) => (Some(chunks.piece(piece)), State::Pieces),
                        Some(Err(error)) => (Some(error.body()), State::Done),
                        None => (None, State::Usage),
                    },
                    State::Usage => (chunks.usage(reply.usage()), State::Done),
                    State::Done => {
                        return Some((
                            Event::default().data("[DONE]"),
                            (reply, chunks, State::End),
                        ));
                    }
                    State::End => return None,
                };
                state = next;
                if let Some(value) = value {
                    return Some((
                        Event::default().data(value.to_string()),
                        (reply, chunks, state),
                    ));
                }
            }
        },
    );
    Sse::new(events.map(Ok::<_, Infallible>))
        .keep_alive(KeepAlive::default())
        .into_response()
}
