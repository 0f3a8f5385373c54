//! What the agent says of itself on `/state`, which the controller polls. Read-only, and without secrets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The pod's adapters as they are.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// The digest of the `desired.json` that the agent works on: `sha256:<hex>` of its bytes. Absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_digest: Option<String>,
    /// Why a newer `desired.json` was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_error: Option<String>,
    /// The engine.
    pub engine: EngineState,
    /// A desired version each.
    pub versions: Vec<VersionState>,
    /// Which version answers for an alias. An alias that has none is absent.
    pub aliases: BTreeMap<String, String>,
}

/// How the engine stands.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EngineState {
    /// Whether it answers.
    pub reachable: bool,
    /// The names that it lists.
    pub models: Vec<String>,
    /// Why it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a version stands.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VersionState {
    /// Its name in the engine.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// Its files are here, and hashes and weights were checked.
    pub verified: bool,
    /// The engine lists it, from our folder.
    pub loaded: bool,
    /// Whether the engine answers as `golden.json` says.
    pub golden: GoldenState,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether it stays wrong until someone changes something.
    pub permanent: bool,
}

/// The result of the golden test on the engine that runs now.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum GoldenState {
    /// Not tested yet.
    #[default]
    Untested,
    /// Answers as it should.
    Passed,
    /// Answers otherwise.
    Failed,
}

impl VersionState {
    /// Whether clients may be sent to it.
    pub fn is_proven(&self) -> bool {
        self.loaded && self.golden == GoldenState::Passed
    }
}
