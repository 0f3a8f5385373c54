//! Object stores by URI, manifests and digests, and strict parsers of weights, tokenizers and data rows.
//!
//! This crate knows neither Kubernetes nor libtorch, so that its parsers of untrusted bytes compile fast and can be
//! fuzzed. Bytes from a store are untrusted until their digest was compared with a pinned one; a secret's value never
//! appears in a message.

pub mod cache;
pub mod credentials;
pub mod digest;
pub mod error;
pub mod finite;
mod foreign_format;
pub mod gguf;
pub mod manifest;
mod mapped_file;
pub mod network;
pub mod publish;
pub mod rows;
pub mod safetensors_file;
pub mod sentence_piece;
pub mod store;
mod tensor_places;
pub mod uri;

pub use error::{Error, Result};
