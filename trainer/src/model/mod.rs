//! A language model of the Llama family: `ops` wired into layers, the weights held as the method wants them.
//!
//! `Base` is the model; `Lora` (see `method`) rides on it. Nothing in here reads files: weights come through `WeightSource`.

mod base;
mod batch;
mod cache;
mod config;
mod inference;
mod layer;
mod weights;

pub use base::{Base, LoadOptions, Storage};
pub use batch::{Batch, Row};
pub use cache::KeyValueCache;
pub use config::{ModelConfig, Projection};
pub use inference::LogitRows;
pub use weights::WeightSource;
