//! Adapters as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`.
//!
//! What is written is byte for byte PEFT 0.21's layout. What is read must be an adapter that this model and this trainer
//! understand whole: a key or tensor that is passed over would serve another model than was trained.

mod config;
mod read;
mod write;

use std::path::PathBuf;

use finetune_artifacts::safetensors_file;
use finetune_crds::contract::OutcomeReason;
use finetune_numerics::ops;

use crate::failure::{Failure, LocalFault};

pub use config::AdapterConfig;
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
    Weights(#[from] safetensors_file::Error),
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

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let local = match &error {
            Error::Io { path, source } => Some(LocalFault::new(path, source)),
            Error::Weights(error) => LocalFault::of_weights(error),
            _ => None,
        };
        let reason = match &local {
            Some(fault) if fault.is_want_of_room() => OutcomeReason::Internal,
            _ => OutcomeReason::InvalidInput,
        };
        Self::new(reason, error.to_string()).at(local)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use finetune_crds::contract::ExitCode;

    use super::*;

    #[test]
    fn a_full_disk_is_no_fault_of_the_adapter_that_is_written() {
        let write = |kind: ErrorKind| {
            Failure::from(Error::Weights(safetensors_file::Error::Io {
                path: "/cache/adapter_model.safetensors".into(),
                source: kind.into(),
            }))
        };
        let full = write(ErrorKind::StorageFull);
        assert_eq!(full.exit_code(), ExitCode::Retry);
        assert_eq!(full.local.unwrap().kind, ErrorKind::StorageFull);
        assert_eq!(
            write(ErrorKind::NotFound).exit_code(),
            ExitCode::InvalidInput
        );
    }
}
