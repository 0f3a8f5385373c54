//! The table of mistakes in a FineTuneJob, and what the API server must say to each.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::job::merge;

/// A good spec, and what is refused of it.
#[derive(Deserialize)]
pub struct Table {
    /// The spec without a mistake.
    pub good: Value,
    /// Jobs that are created with a mistake.
    pub creations: Vec<Refusal>,
    /// Changes of a stored job.
    pub changes: Vec<Refusal>,
}

/// One mistake.
#[derive(Deserialize)]
pub struct Refusal {
    /// What it is, in words.
    pub mistake: String,
    /// The job's name, where that is the mistake.
    pub name: Option<String>,
    /// What is merged into the spec.
    pub patch: Option<Value>,
    /// What the API server's answer contains; `None` where it takes the job.
    pub api_server: Option<String>,
}

/// Reads the table.
pub fn table() -> Result<Table> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crds/tests/refusals.yaml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
}

impl Table {
    /// The good job with `patch` merged into its spec.
    pub fn job(&self, name: &str, patch: Value) -> Value {
        let mut spec = self.good.clone();
        merge(&mut spec, patch);
        json!({
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": { "name": name },
            "spec": spec,
        })
    }
}

impl Refusal {
    /// What of the API server's answer is not as the table says; `None` where all is.
    pub fn unlike(&self, answer: Result<(), String>) -> Option<String> {
        let mistake = &self.mistake;
        match (&self.api_server, answer) {
            (Some(expected), Ok(())) => Some(format!(
                "{mistake}: expected `{expected}`, but it was accepted"
            )),
            (Some(expected), Err(message)) => (!message.contains(expected))
                .then(|| format!("{mistake}: expected `{expected}`, got {message}")),
            (None, Ok(())) => None,
            (None, Err(message)) => Some(format!("{mistake}: expected no refusal, got {message}")),
        }
    }
}
