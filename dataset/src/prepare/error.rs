//! What can go wrong with the data, by what happens next.

use finetune_artifacts::rows::Faults;
use finetune_crds::contract::OutcomeReason;

use crate::template;

/// What can go wrong with the data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store or the cache failed.
    #[error(transparent)]
    Store(#[from] finetune_artifacts::Error),
    /// Rows are malformed, or the template refuses them.
    #[error("{0}")]
    Rows(#[from] Faults),
    /// The template is at fault with every row.
    #[error("{at}: {error}")]
    Template {
        /// The row at which that was found.
        at: String,
        /// The fault.
        error: template::Error,
    },
    /// A field of the manifest does not fit the data.
    #[error("{0}")]
    Setting(String),
    /// There is nothing to learn from.
    #[error("{0}")]
    Empty(String),
    /// The prepared set belongs to something else.
    #[error("the prepared data in {uri} was made for another {what}: {cure}")]
    Stale {
        /// Where it lies.
        uri: String,
        /// What differs.
        what: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// The prepared set cannot be read or written.
    #[error("prepared data: {0}")]
    Prepared(String),
}

impl Error {
    /// The class that an outcome carries.
    pub fn reason(&self) -> OutcomeReason {
        match self {
            Self::Store(error) => error.reason(),
            Self::Rows(_)
            | Self::Template { .. }
            | Self::Setting(_)
            | Self::Empty(_)
            | Self::Stale { .. } => OutcomeReason::InvalidInput,
            Self::Prepared(_) => OutcomeReason::Internal,
        }
    }
}
