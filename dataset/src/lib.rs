//! From a job's data to rows of tokens: which tokens a model sees, and which of them it is trained to say.
//!
//! `prepare` reads, checks, splits, tokenises and reports the data, `prepared_set` keeps what it makes; whatever else is here
//! knows no store. Nothing here knows of a model more than its tokenizer, and nothing computes: a small tool can check data with
//! it. A mask goes by position, never by a token's id: in some models the padding is the end of a turn, and masking that would
//! teach the model never to stop.

mod batches;
mod conversation;
mod encode;
mod left_out;
mod packing;
pub mod prepare;
mod prepared_set;
mod refusal;
pub mod template;
pub mod tokenize;
mod tokenized_row;

pub use batches::{Batches, MicroBatchSize, micro_batches};
pub use encode::{EncodedRow, Encoder, EncoderSettings};
pub use left_out::{LeftOut, Part};
pub use packing::pack;
pub use prepared_set::PreparedSet;
pub use refusal::Refusal;
pub use tokenized_row::{TokenizedRow, lengths};
