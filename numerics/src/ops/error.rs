//! What can go wrong between a checkpoint file and a gradient.

use tch::TchError;

/// A failure of the numeric core.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Memory ran out; the same step fails again until something is changed.
    #[error(
        "out of memory: {0}; lower training.microBatchSize or dataset.maxSequenceLength, or raise the memory limit"
    )]
    OutOfMemory(String),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Libtorch(String),
    /// The model's files lack a weight that its configuration calls for.
    #[error(
        "the base model has no tensor `{name}`, expected one of shape {shape:?}: its files are incomplete"
    )]
    MissingTensor {
        /// The Hugging Face name.
        name: String,
        /// The shape that the configuration calls for.
        shape: Vec<i64>,
    },
    /// A weight has another shape than the configuration says.
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor's name.
        name: String,
        /// Its shape.
        found: Vec<i64>,
        /// The shape that the configuration calls for.
        expected: Vec<i64>,
    },
    /// A weight could not be read.
    #[error("tensor `{name}` cannot be read: {source}")]
    Source {
        /// The tensor's name.
        name: String,
        /// What the file's reader said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The configuration describes a model that cannot be built.
    #[error("model configuration: {0}")]
    Configuration(String),
    /// The adapter does not fit the model or is of a kind that is not supported.
    #[error("adapter: {0}")]
    Adapter(String),
    /// The input does not fit the model.
    #[error("input: {0}")]
    Input(String),
}

impl From<TchError> for Error {
    fn from(error: TchError) -> Self {
        let text = match error {
            TchError::Torch(text) => text,
            other => other.to_string(),
        };
        // The first line: libtorch appends its C++ stack.
        let line = text.lines().next().unwrap_or_default().to_owned();
        // The CPU allocator and the CUDA allocator name the condition only in prose.
        if text.contains("can't allocate memory")
            || text.contains("not enough memory")
            || text.contains("out of memory")
        {
            Self::OutOfMemory(line)
        } else {
            Self::Libtorch(line)
        }
    }
}
