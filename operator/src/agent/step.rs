//! The steps of a version: fetch, load, test, unload. Each runs beside the loop and ends with one result.

use super::engine::{EngineError, FinetuneEngine};
use super::store::{FetchError, Fetched, Versions};

/// The kind of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Download and check.
    Fetch,
    /// Load into the engine.
    Load,
    /// Compare log-probabilities.
    Test,
    /// Unload from the engine.
    Unload,
}

impl Step {
    /// The word that metrics carry.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Load => "load",
            Self::Test => "test",
            Self::Unload => "unload",
        }
    }
}

/// A step that ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// The version.
    pub version: String,
    /// Its digest when the step began.
    pub digest: String,
    /// The step.
    pub step: Step,
    /// The engine process that was there when it began.
    pub epoch: u64,
    /// How it ended.
    pub result: Result<Outcome, StepError>,
}

/// What a step brought.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The files are here.
    Fetched(Box<Fetched>),
    /// It was done.
    Done,
}

/// Why a step failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct StepError {
    /// For a person.
    pub message: String,
    /// Whether trying again ends the same way.
    pub permanent: bool,
}

impl StepError {
    /// A fault that stays.
    pub(crate) fn permanent(message: String) -> Self {
        Self {
            message,
            permanent: true,
        }
    }
}

impl From<EngineError> for StepError {
    fn from(error: EngineError) -> Self {
        Self {
            message: error.to_string(),
            permanent: error.is_permanent(),
        }
    }
}

impl From<FetchError> for StepError {
    fn from(error: FetchError) -> Self {
        Self {
            message: error.to_string(),
            permanent: matches!(error, FetchError::Permanent(_)),
        }
    }
}

/// Downloads and checks.
pub(crate) async fn fetch(
    versions: &Versions,
    uri: &str,
    digest: &str,
) -> Result<Outcome, StepError> {
    let fetched = versions.fetch(uri, digest).await?;
    Ok(Outcome::Fetched(Box::new(fetched)))
}

/// Loads. What counts is the list afterwards, whatever the engine answered: an answer may be lost, and a refusal of a
/// name that is there already is none.
pub(crate) async fn load(
    engine: &FinetuneEngine,
    name: &str,
    folder: &str,
) -> Result<Outcome, StepError> {
    let answer = engine.load(name, folder).await;
    let models = engine.models().await?;
    let loaded = models
        .iter()
        .any(|model| model.id == name && model.root.as_deref() == Some(folder));
    match answer {
        _ if loaded => Ok(Outcome::Done),
        Err(error) => Err(error.into()),
        Ok(()) => Err(StepError {
            message: format!("the engine accepted `{name}` and does not list it from {folder}"),
            permanent: false,
        }),
    }
}

/// Unloads. Here too the list decides.
pub(crate) async fn unload(engine: &FinetuneEngine, name: &str) -> Result<Outcome, StepError> {
    let answer = engine.unload(name).await;
    let models = engine.models().await?;
    let gone = models.iter().all(|model| model.id != name);
    match answer {
        _ if gone => Ok(Outcome::Done),
        Err(error) => Err(error.into()),
        Ok(()) => Err(StepError {
            message: format!("the engine accepted to unload `{name}` and still lists it"),
            permanent: false,
        }),
    }
}
