//! A language model: `ops` wired into layers as its family does, the weights held as the method wants them.
//!
//! `Base` is the model; `Lora` (see `adapter`) rides on it. Nothing in here reads files: weights come through `WeightSource`.

mod base;
mod batch;
mod cache;
mod feed_forward;
mod full;
mod inference;
mod layer;
mod layer_by_layer;
mod linears;
mod loader;
mod pass;
mod randomness;
mod self_attention;
mod weights;

pub use base::Base;
pub use batch::{Batch, Row};
pub use cache::{BLOCK, KeyValueCache, blocks_of};
pub use inference::LogitRows;
pub use layer_by_layer::{TextScores, score_layer_by_layer};
pub use loader::{LoadOptions, Storage};
pub use randomness::Randomness;
pub use weights::WeightSource;
