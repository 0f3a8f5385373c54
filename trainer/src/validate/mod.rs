//! The rules of a FineTuneJob that its schema cannot say: across fields, of URIs, of patterns of modules, of engines.
//!
//! Pure: a fault is data. Bounds are the schema's own, which `manifest_file` holds a spec against. The rules that the API server has
//! are those of the CRD; `crds/tests/refusals.yaml` says of each mistake which of both refuse it.

use std::borrow::Cow;
use std::fmt;

use finetune_artifacts::uri::Location;
use finetune_crds::fine_tune_job::{Method, OutputAdapter};
use finetune_crds::{FineTuneJobSpec, uris};

use dataset::check_dataset;
use engines::check_engines;
use method::{check_method, check_objective};
use output::check_output;
use training::{check_early_stopping, check_packing, check_training};

mod dataset;
mod engines;
mod method;
mod output;
mod quoted;
#[cfg(test)]
mod tests;
mod training;

pub(crate) use quoted::cut;

/// One thing that is wrong with a manifest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The field, such as `spec.training.epochs`.
    pub field: String,
    /// The value, what was expected, the cure.
    pub message: String,
}

impl Fault {
    pub(crate) fn new(field: &str, message: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.field, self.message)
    }
}

/// What breaks a rule in the spec of the job called `name`; empty where nothing does.
pub fn validate(name: &str, spec: &FineTuneJobSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_name(name, &mut faults);
    check_uri("spec.baseModel.uri", &spec.base_model.uri, &mut faults);
    if let Some(revision) = &spec.base_model.revision
        && !spec.base_model.uri.starts_with("hf://")
    {
        faults.push(Fault::new(
            "spec.baseModel.revision",
            format!(
                "is `{}`, which applies to hf:// only: remove it, or use an hf:// URI",
                cut(revision)
            ),
        ));
    }
    check_dataset(&spec.dataset, &mut faults);
    check_method(&spec.method, &mut faults);
    check_objective(spec, &mut faults);
    if let Some(adapter) = &spec.initial_adapter {
        check_uri("spec.initialAdapter.uri", &adapter.uri, &mut faults);
        if adapter.uri.starts_with("https://") {
            faults.push(Fault::new(
                "spec.initialAdapter.uri",
                format!(
                    "is `{}`, which is one file: expected a folder, file://, {}",
                    cut(&adapter.uri),
                    uris::list(&uris::READABLE_FOLDERS)
                ),
            ));
        }
        if spec.method.full.is_some() {
            faults.push(Fault::new(
                "spec.initialAdapter",
                "is set with method full, which trains no adapter: remove it, or use lora or qlora",
            ));
        }
    }
    check_training(&spec.training, &mut faults);
    check_packing(spec, &mut faults);
    check_early_stopping(spec, &mut faults);
    if let Some(output) = &spec.output {
        check_output(output, &spec.method, &mut faults);
        if let Some(adapter) = &output.adapter {
            check_engines(adapter, &spec.method, &mut faults);
        }
    }
    faults
}

/// What the engines of an adapter cannot serve, whatever the base is.
pub(crate) fn engine_faults(adapter: &OutputAdapter, method: &Method) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_engines(adapter, method, &mut faults);
    faults
}

fn check_name(name: &str, faults: &mut Vec<Fault>) {
    if !is_name(name) {
        faults.push(Fault::new("metadata.name", name_rule(name)));
    }
}

/// `[a-z]([-a-z0-9]*[a-z0-9])?`, at most 52 characters.
fn is_name(name: &str) -> bool {
    name.len() <= 52
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|each| each.is_ascii_lowercase() || each.is_ascii_digit() || each == '-')
}

fn name_rule(name: &str) -> String {
    format!(
        "is `{}`, expected 1 to 52 of a-z, 0-9 and -, a letter first and no - last",
        cut(name)
    )
}

fn check_uri(field: &str, uri: &str, faults: &mut Vec<Fault>) {
    if let Err(error) = Location::parse(uri) {
        let mut problem = error.to_string();
        // It names the URI, and perhaps a part of it.
        for text in std::iter::once(uri).chain(uri.split('/')) {
            if let Cow::Owned(short) = cut(text) {
                problem = problem.replace(text, &short);
            }
        }
        faults.push(Fault::new(field, format!("is `{}`: {problem}", cut(uri))));
    }
}
