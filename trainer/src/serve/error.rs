//! Why a server does not start.

use finetune_crds::contract::OutcomeReason;

/// What is wrong, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base cannot be fetched or read.
    #[error("--model {uri}: {source}")]
    Base {
        /// The base's URI.
        uri: String,
        /// The cause.
        source: Box<crate::base::Error>,
    },
    /// The base does not fit the model code or the memory.
    #[error("--model {uri}: {source}")]
    Model {
        /// The base's URI.
        uri: String,
        /// The cause.
        source: finetune_numerics::ops::Error,
    },
    /// An adapter cannot be fetched.
    #[error("--adapter {name}={uri}: {source}")]
    Fetch {
        /// The adapter's name.
        name: String,
        /// Its URI.
        uri: String,
        /// The cause.
        source: Box<finetune_artifacts::Error>,
    },
    /// An adapter does not fit the base or the limits.
    #[error("--adapter {name}={uri}: {message}")]
    Adapter {
        /// The adapter's name.
        name: String,
        /// Its URI.
        uri: String,
        /// The cause.
        message: String,
    },
    /// A store or its credentials are at fault.
    #[error(transparent)]
    Store(#[from] finetune_artifacts::Error),
    /// There is too little memory for keys and values, or nobody says how much there is.
    #[error("--kv-cache-memory: {0}")]
    KeyValueMemory(String),
    /// The address cannot be listened on.
    #[error("{host}:{port}: {source}; choose another --host or --port")]
    Listen {
        /// The address.
        host: String,
        /// The port.
        port: u16,
        /// The cause.
        source: std::io::Error,
    },
    /// The system refused a thread or a signal handler.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
    /// A metric is declared wrongly.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Error {
    /// The class that decides the exit code.
    pub fn reason(&self) -> OutcomeReason {
        match self {
            Self::Base { source, .. } => source.reason(),
            Self::Fetch { source, .. } => source.reason(),
            Self::Store(source) => source.reason(),
            Self::Model {
                source: finetune_numerics::ops::Error::OutOfMemory(_),
                ..
            } => OutcomeReason::OutOfMemory,
            Self::KeyValueMemory(_) | Self::Model { .. } | Self::Adapter { .. } => {
                OutcomeReason::InvalidInput
            }
            Self::Listen { .. } | Self::System(_) | Self::Metrics(_) => OutcomeReason::Internal,
        }
    }
}
