//! `trainer serve`: a base model and its adapters behind OpenAI's API, with vLLM's routes to load and unload adapters.
//!
//! One thread owns the model and computes; HTTP has threads of its own, so that `/health` answers while the model works.
//! An unknown model is a 404, never the base in silence; weights under a name are never replaced.

mod adapter_files;
mod adapters;
mod api;
mod byte_count;
mod call_reader;
mod conversation;
mod engine;
mod error;
mod generation;
mod http;
mod key_value_memory;
mod memory_limit;
mod metrics;
mod options;
mod reply;
mod request_error;
pub(crate) mod sampling;
mod schedule;
mod start;
mod stops;
pub(crate) mod text;
mod token_text;
mod tools;
mod worker;

pub use error::Error;
pub use options::{ComputeType, Options};
pub use start::{Running, serve, start};
pub use tools::ToolCallParser;
