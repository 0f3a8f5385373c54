//! From rows of data to rows of tokens: which tokens a model sees, and which of them it is trained to say.
//!
//! Nothing here reads a store or computes: a small tool can check data with it. A mask goes by position, never by a token's id: in some models the padding is the end of a
//! turn, and masking that would teach the model never to stop.

mod batches;
mod conversation;
mod encode;
mod left_out;
mod packing;
mod refusal;
pub mod template;
pub mod tokenize;

pub use batches::{Batches, MicroBatchSize, micro_batches};
pub use encode::{EncodedRow, Encoder, EncoderSettings};
pub use left_out::{LeftOut, Part};
pub use packing::pack;
pub use refusal::Refusal;

/// A row as the model sees it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct TokenizedRow {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// One flag a token: whether the model is trained to say it. Never set for the first one, which nothing foretells.
    pub loss: Vec<bool>,
}

/// How many tokens each row has.
pub fn lengths(rows: &[TokenizedRow]) -> Vec<usize> {
    rows.iter().map(|row| row.tokens.len()).collect()
}

impl TokenizedRow {
    /// How many tokens carry loss.
    pub fn trainable(&self) -> usize {
        self.loss.iter().filter(|loss| **loss).count()
    }
}
