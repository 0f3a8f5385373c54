//! Why a request gets no answer, by what went wrong. What clients see of it is HTTP's matter.

use finetune_numerics::ops;

use super::key_value_memory::NoRoom;

/// What a request cannot have, and why. Its text is what the client reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// A field of the request is wrong.
    #[error("{message}")]
    Field {
        /// The field.
        name: String,
        /// What it is, what was expected, the cure.
        message: String,
    },
    /// The request is wrong as a whole, or what it names is.
    #[error("{0}")]
    Request(String),
    /// No such model, as OpenAI and vLLM word it.
    #[error("The model `{0}` does not exist.")]
    UnknownModel(String),
    /// An adapter cannot be loaded or unloaded by this name or path.
    #[error("{0}")]
    AdapterName(String),
    /// No such adapter, as vLLM words it.
    #[error("The lora adapter '{0}' cannot be found.")]
    UnknownAdapter(String),
    /// Where an adapter should lie, a file of it is missing.
    #[error("No adapter found at {folder}: there is no {file}")]
    MissingAdapter {
        /// Where it should lie.
        folder: String,
        /// What is missing.
        file: &'static str,
    },
    /// So many adapters are loaded as may be.
    #[error("{count} adapters are loaded and --max-adapters is {most}; unload one first")]
    TooManyAdapters {
        /// How many are loaded.
        count: usize,
        /// How many may be.
        most: usize,
    },
    /// What is loaded leaves an adapter no memory.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The adapter of an answer was unloaded meanwhile.
    #[error("the adapter was unloaded before its turn came")]
    Unloaded,
    /// So many requests wait as may.
    #[error(
        "{running} answers are running and {waiting} requests wait, which is the most; try again"
    )]
    Full {
        /// How many answers run.
        running: usize,
        /// How many requests wait.
        waiting: usize,
    },
    /// The server has no room for the request now, and may have later.
    #[error("{0}")]
    NotNow(String),
    /// The memory for keys and values has become too small for the answer.
    #[error(
        "adapters that were loaded since have left {0} bytes for keys and values, which is too little for this answer; unload \
         some, or raise --kv-cache-memory"
    )]
    OutOfMemory(u64),
    /// The server is about to end.
    #[error("the server is stopping")]
    Stopping,
    /// Computing the answer failed.
    #[error(transparent)]
    Computation(#[from] ops::Error),
    /// The server is at fault in another way.
    #[error("{0}")]
    Internal(String),
}

impl RequestError {
    /// A field of the request is wrong.
    pub(crate) fn field(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field {
            name: name.into(),
            message: message.into(),
        }
    }

    /// The thread that computes has ended.
    pub(crate) fn no_worker() -> Self {
        Self::Internal("the model's thread has ended; restart the server".to_owned())
    }

    /// The field of the request that is at fault, where one is.
    pub(crate) fn param(&self) -> Option<&str> {
        match self {
            Self::Field { name, .. } => Some(name),
            Self::UnknownModel(_) | Self::Unloaded => Some("model"),
            Self::Request(_)
            | Self::AdapterName(_)
            | Self::UnknownAdapter(_)
            | Self::MissingAdapter { .. }
            | Self::TooManyAdapters { .. }
            | Self::NoRoom(_)
            | Self::Full { .. }
            | Self::NotNow(_)
            | Self::OutOfMemory(_)
            | Self::Stopping
            | Self::Computation(_)
            | Self::Internal(_) => None,
        }
    }
}
