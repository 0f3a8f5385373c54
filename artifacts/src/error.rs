//! What can go wrong with a store, grouped by whose turn it is.
//!
//! Each message names the object, the bucket or the Secret and the cure. No message holds a secret's value.

use std::path::{Path, PathBuf};

use finetune_crds::contract::OutcomeReason;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bucket is not there.
    #[error("{word} `{bucket}` does not exist at {endpoint}: create it, or correct the URI {uri}")]
    BucketNotFound {
        /// What its provider calls it.
        word: &'static str,
        /// The bucket.
        bucket: String,
        /// Where it was looked for.
        endpoint: String,
        /// What was asked for.
        uri: String,
    },
    /// The store answers, the object is not there.
    #[error(
        "{uri} does not exist: its store answers, but holds no such object; correct the URI, or upload it"
    )]
    ObjectNotFound {
        /// What was asked for.
        uri: String,
    },
    /// Keys are missing.
    #[error("{origin} lacks {keys}, which {uri} needs: {cure}")]
    CredentialsMissing {
        /// The Secret, or the environment.
        origin: String,
        /// The missing keys.
        keys: String,
        /// What was asked for.
        uri: String,
        /// What to do.
        cure: String,
    },
    /// A named Secret holds nothing. A pod that mounts it sees no difference between one that is not there and an empty one.
    #[error(
        "Secret `{name}` is not in the namespace or is empty, and {uri} needs it: create it with {keys}, or correct the name"
    )]
    SecretMissing {
        /// The Secret's name.
        name: String,
        /// The keys that it should hold.
        keys: &'static str,
        /// What was asked for.
        uri: String,
    },
    /// The store refused the keys.
    #[error(
        "the store refused access to {uri} ({code}): check {keys} in {origin}, and what they are allowed to do"
    )]
    CredentialsRefused {
        /// What was asked for.
        uri: String,
        /// The store's own word.
        code: String,
        /// The names of the keys.
        keys: &'static str,
        /// Where they came from.
        origin: String,
    },
    /// The store or the network failed; another try may end well.
    #[error("{uri} is out of reach: {cause}")]
    Unavailable {
        /// What was asked for.
        uri: String,
        /// What the client or the store said.
        cause: String,
    },
    /// Bytes are not what their digest says.
    #[error(
        "{uri} has digest {found}, expected {expected}: it was changed or damaged after it was published; publish it \
         again"
    )]
    DigestMismatch {
        /// The object.
        uri: String,
        /// The pinned digest.
        expected: String,
        /// The digest of the bytes that came.
        found: String,
    },
    /// A URI, a setting or a file is wrong, and stays so until someone changes it.
    #[error("{subject}: {problem}")]
    Invalid {
        /// The URI, field or file.
        subject: String,
        /// What it is, what was expected, and the cure.
        problem: String,
    },
    /// The local file system failed.
    #[error("failed to {action} {}: {source}", path.display())]
    Local {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether another try in a moment may end well, with nobody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// The class that an outcome or a condition carries.
    pub fn reason(&self) -> OutcomeReason {
        match self {
            Self::BucketNotFound { .. } | Self::ObjectNotFound { .. } => OutcomeReason::NotFound,
            Self::CredentialsMissing { .. }
            | Self::SecretMissing { .. }
            | Self::CredentialsRefused { .. } => OutcomeReason::Credentials,
            Self::Unavailable { .. } => OutcomeReason::Unavailable,
            Self::DigestMismatch { .. } | Self::Invalid { .. } => OutcomeReason::InvalidInput,
            Self::Local { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                OutcomeReason::NotFound
            }
            Self::Local { .. } => OutcomeReason::Internal,
        }
    }

    /// Where it is the bucket that is not there: what was asked for, and what is wrong, without the cure.
    pub fn missing_bucket(&self) -> Option<(&str, String)> {
        match self {
            Self::BucketNotFound {
                word,
                bucket,
                endpoint,
                uri,
            } => Some((
                uri.as_str(),
                format!("{word} `{bucket}` does not exist at {endpoint}"),
            )),
            _ => None,
        }
    }

    /// A fault in a URI, a setting or a file: what it is, then what is wrong with it and the cure.
    pub fn invalid(subject: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            subject: subject.into(),
            problem: problem.into(),
        }
    }

    /// A fault of the local file system while trying to `action` (a verb) `path`.
    pub fn local(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Local {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_bucket_and_a_missing_object_read_differently() {
        let bucket = Error::BucketNotFound {
            word: "bucket",
            bucket: "models".into(),
            endpoint: "http://store:9000".into(),
            uri: "s3://models/a".into(),
        };
        let object = Error::ObjectNotFound {
            uri: "s3://models/a".into(),
        };
        assert!(
            bucket
                .to_string()
                .contains("bucket `models` does not exist")
        );
        assert!(!object.to_string().contains("bucket"));
        assert_eq!(bucket.reason(), OutcomeReason::NotFound);
        assert_eq!(object.reason(), OutcomeReason::NotFound);
    }
}
