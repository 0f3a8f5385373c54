//! Object store access by URI, manifests and digests, and strict parsers of weights and data rows.
//!
//! This crate knows neither Kubernetes nor libtorch, so that its parsers of untrusted bytes compile fast and can be
//! fuzzed.

pub mod gguf;
mod mapped_file;
pub mod rows;
pub mod safetensors_file;
pub mod split;
