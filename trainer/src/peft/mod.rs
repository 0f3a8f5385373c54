//! Adapters as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`.
//!
//! What is written is byte for byte PEFT 0.21's layout. What is read must be an adapter that this model and this trainer
//! understand whole: a key or tensor that is passed over would serve another model than was trained.

mod config;
mod read;
mod write;

use std::path::PathBuf;

pub use config::AdapterConfig;
use finetune_numerics::ops;
pub use read::{Adapter, fetch, read};
pub use write::write;

/// What can be wrong with an adapter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The configuration is no JSON object or asks for what is not supported.
    #[error("{}: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key, its value, what was expected.
        message: String,
    },
    /// The weights are no safetensors file.
    #[error(transparent)]
    Weights(#[from] finetune_artifacts::safetensors_file::Error),
    /// A tensor does not fit.
    #[error("{}: tensor `{name}` {message}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What it is and what was expected.
        message: String,
    },
    /// The adapter does not fit the base model.
    #[error(transparent)]
    Model(#[from] ops::Error),
}
