//! How a stage can fail, in the terms of the contract: whose turn it is, and what to do.
//!
//! Knows no module of this crate: each says beside its own error type what class of failure that is.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use finetune_artifacts::safetensors_file;
use finetune_crds::contract::{ExitCode, OutcomeReason};

/// A failure as a person and the operator see it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Its class.
    pub reason: OutcomeReason,
    /// The field or file and line, the value, what was expected, the cure.
    pub message: String,
    /// Where it is the local file system that failed: what it failed at.
    pub local: Option<LocalFault>,
    /// Where a bucket is not there: which one.
    pub bucket: Option<Box<MissingBucket>>,
    /// The manifest's field that is at fault, where it is known.
    pub field: Option<&'static str>,
}

/// A bucket that is not there.
#[derive(Clone, Debug)]
pub struct MissingBucket {
    /// What was asked for, in whichever folder of it.
    pub uri: String,
    /// What is wrong, without the cure.
    pub problem: String,
}

impl MissingBucket {
    fn of_store(error: &finetune_artifacts::Error) -> Option<Box<Self>> {
        let (uri, problem) = error.missing_bucket()?;
        Some(Box::new(Self {
            uri: uri.to_owned(),
            problem,
        }))
    }
}

/// What the local file system failed at.
#[derive(Clone, Debug)]
pub struct LocalFault {
    /// The file or folder.
    pub path: PathBuf,
    /// How it failed.
    pub kind: ErrorKind,
}

impl LocalFault {
    /// That of a file or folder.
    pub(crate) fn new(path: &Path, source: &std::io::Error) -> Self {
        Self {
            path: path.to_owned(),
            kind: source.kind(),
        }
    }

    fn of_store(error: &finetune_artifacts::Error) -> Option<Self> {
        match error {
            finetune_artifacts::Error::Local { path, source, .. } => Some(Self::new(path, source)),
            _ => None,
        }
    }

    /// That of a file of weights, where it is one.
    pub(crate) fn of_weights(error: &safetensors_file::Error) -> Option<Self> {
        match error {
            safetensors_file::Error::Io { path, source } => Some(Self::new(path, source)),
            _ => None,
        }
    }

    /// Whether nothing can be written there: whatever the file holds is not at fault.
    pub(crate) fn is_want_of_room(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem
        )
    }
}

impl Failure {
    /// A failure of class `reason`.
    pub fn new(reason: OutcomeReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            local: None,
            bucket: None,
            field: None,
        }
    }

    /// The manifest, the data or the base is at fault.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "errors are handed over: `map_err(Failure::invalid)`"
    )]
    pub fn invalid(message: impl ToString) -> Self {
        Self::new(OutcomeReason::InvalidInput, message.to_string())
    }

    /// The trainer or its machine is at fault.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "errors are handed over: `map_err(Failure::internal)`"
    )]
    pub fn internal(message: impl ToString) -> Self {
        Self::new(OutcomeReason::Internal, message.to_string())
    }

    /// With what the local file system failed at.
    #[must_use]
    pub(crate) fn at(self, local: Option<LocalFault>) -> Self {
        Self { local, ..self }
    }

    /// With what a store failed at.
    #[must_use]
    pub(crate) fn at_store(self, error: &finetune_artifacts::Error) -> Self {
        Self {
            local: LocalFault::of_store(error),
            bucket: MissingBucket::of_store(error),
            ..self
        }
    }

    /// The code with which the process ends.
    pub const fn exit_code(&self) -> ExitCode {
        exit_code(self.reason)
    }
}

/// The code with which a process ends that ended for `reason`.
///
/// A missing file is final, as a wrong one is: another try would not find it. Missing credentials may still come.
pub const fn exit_code(reason: OutcomeReason) -> ExitCode {
    match reason {
        OutcomeReason::Succeeded => ExitCode::Done,
        OutcomeReason::InvalidInput | OutcomeReason::NotFound => ExitCode::InvalidInput,
        OutcomeReason::Preempted => ExitCode::Preempted,
        OutcomeReason::OutOfMemory => ExitCode::OutOfMemory,
        OutcomeReason::Diverged => ExitCode::Diverged,
        OutcomeReason::Credentials
        | OutcomeReason::Unavailable
        | OutcomeReason::Superseded
        | OutcomeReason::Internal => ExitCode::Retry,
    }
}

impl From<finetune_numerics::ops::Error> for Failure {
    fn from(error: finetune_numerics::ops::Error) -> Self {
        use finetune_numerics::ops::Error;
        let reason = match &error {
            Error::OutOfMemory(_) => OutcomeReason::OutOfMemory,
            Error::Libtorch(_) => OutcomeReason::Internal,
            Error::MissingTensor { .. }
            | Error::Shape { .. }
            | Error::Source { .. }
            | Error::Configuration(_)
            | Error::Adapter(_)
            | Error::Input(_) => OutcomeReason::InvalidInput,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<tch::TchError> for Failure {
    fn from(error: tch::TchError) -> Self {
        finetune_numerics::ops::Error::from(error).into()
    }
}

/// Of a file that is written here; one that was handed in is at fault by itself and says so.
impl From<safetensors_file::Error> for Failure {
    fn from(error: safetensors_file::Error) -> Self {
        let local = LocalFault::of_weights(&error);
        Self::internal(error).at(local)
    }
}

impl From<finetune_artifacts::Error> for Failure {
    fn from(error: finetune_artifacts::Error) -> Self {
        Self::new(error.reason(), error.to_string()).at_store(&error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_allocation_is_no_fault_of_the_trainer() {
        let text = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes. Error code 12 (Cannot allocate memory)";
        let failure = Failure::from(tch::TchError::Torch(text.to_owned()));
        assert_eq!(failure.exit_code(), ExitCode::OutOfMemory);
        let failure = Failure::from(tch::TchError::Torch("shape mismatch".to_owned()));
        assert_eq!(failure.exit_code(), ExitCode::Retry);
    }

    #[test]
    fn what_another_try_may_mend_has_no_final_code() {
        for reason in [
            OutcomeReason::Credentials,
            OutcomeReason::Unavailable,
            OutcomeReason::Superseded,
        ] {
            assert!(!ExitCode::FINAL.contains(&exit_code(reason)), "{reason:?}");
        }
    }
}
