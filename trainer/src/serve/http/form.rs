//! The form of an answer: what its route says of it, whole or piece by piece.

use serde_json::{Value, json};

use crate::serve::reply::Piece;

/// An answer in the words of its route.
pub(super) trait Answer: Send + 'static {
    /// The whole answer without its usage.
    fn whole(&mut self, piece: Piece) -> Value;
    /// What a stream sends before the first piece.
    fn first(&mut self) -> Option<Value>;
    /// One piece of a stream, in one chunk or several.
    fn piece(&mut self, piece: Piece) -> Vec<Value>;
    /// A chunk of a stream that holds no choice.
    fn empty(&mut self) -> Value;
}

/// What stands at the head of an answer and of its chunks.
#[derive(Debug)]
pub(super) struct Head {
    /// Its own name.
    pub(super) id: String,
    /// When it began, in seconds since 1970.
    pub(super) created: i64,
    /// Who answers.
    pub(super) model: String,
    /// Whether log-probabilities follow.
    pub(super) with_scores: bool,
}

impl Head {
    /// An answer or a chunk of it.
    pub(super) fn answer(&self, object: &str, choices: &[Value]) -> Value {
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices })
    }
}
