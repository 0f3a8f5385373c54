//! Inference engines as the agent sees them: a list of models, load, unload, log-probabilities.
//!
//! Decisions rest on status codes and on reading the list again, never on the text of a message: engines change their
//! wording between releases.

mod finetune;

pub(crate) use finetune::FinetuneEngine;

/// What an engine says of a model for clients, and the agent has no use for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Facts {
    /// When it was loaded, in seconds since 1970.
    pub created: Option<i64>,
    /// The most tokens of prompt and answer together.
    pub max_model_len: Option<u64>,
}

/// A model that the engine lists.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Model {
    /// The name that requests use.
    pub id: String,
    /// The folder that it was loaded from.
    pub root: Option<String>,
    /// The base of an adapter; a base has none.
    pub parent: Option<String>,
    /// The rest.
    pub facts: Facts,
}

/// Why an engine did not do what it was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum EngineError {
    /// No answer, or none in time.
    #[error("the engine does not answer at {url}: {cause}")]
    Unreachable {
        /// What was called.
        url: String,
        /// What the client said.
        cause: String,
        /// Whether it may only be busy: it took the call and gave no answer in time.
        slow: bool,
    },
    /// An answer with another status than 200.
    #[error("the engine refused {request} with status {status}: {message}")]
    Refused {
        /// The method and path.
        request: &'static str,
        /// The status.
        status: u16,
        /// The engine's own words.
        message: String,
    },
    /// A 200 with a body that makes no sense.
    #[error("the engine's answer to {request} is not what was expected: {problem}")]
    Garbled {
        /// The method and path.
        request: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl EngineError {
    /// Whether the process is gone, rather than busy.
    pub(crate) fn is_down(&self) -> bool {
        matches!(self, Self::Unreachable { slow: false, .. })
    }

    /// Whether the request itself is at fault, so that asking again ends the same way. A missing file may still appear.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 400 | 413 | 422,
                ..
            }
        )
    }
}
