//! The documents of a manifest file, and the FineTuneJob among them: as kubectl reads it, which has YAML 1.1's booleans and octal
//! numbers, and passes over empty documents.

use std::path::Path;

use serde_json::Value;
use serde_saphyr::{Error as YamlError, Spanned};

use super::Error;

/// A document and where it begins.
#[derive(Debug)]
pub(super) struct Document {
    /// The line of its first key, from 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

/// The one FineTuneJob of the file; the only document whatever it is, so that its kind can be named. `path` is for messages only.
pub(super) fn job(text: &str, path: &Path) -> Result<Document, Error> {
    let refused = |message: String| Error::Documents {
        path: path.to_owned(),
        message,
    };
    let mut documents = read(text, path)?;
    if documents.len() < 2 {
        return documents
            .pop()
            .ok_or_else(|| refused("holds no document, expected a FineTuneJob".to_owned()));
    }
    let (mut jobs, others): (Vec<_>, Vec<_>) = documents
        .into_iter()
        .partition(|document| document.value["kind"] == "FineTuneJob");
    match (jobs.pop(), jobs.len()) {
        (Some(job), 0) => {
            for other in others {
                tracing::info!(
                    "{} line {}: {} is passed over, only a cluster reads it",
                    path.display(),
                    other.line,
                    named(&other.value)
                );
            }
            Ok(job)
        }
        (Some(last), _) => {
            let names: Vec<String> = jobs
                .iter()
                .chain([&last])
                .map(|document| named(&document.value))
                .collect();
            Err(refused(format!(
                "holds {} FineTuneJobs ({}), expected one: keep each in a file of its own",
                names.len(),
                names.join(", ")
            )))
        }
        (None, _) => {
            let names: Vec<String> = others.iter().map(|other| named(&other.value)).collect();
            Err(refused(format!(
                "holds {} documents and no FineTuneJob ({})",
                names.len(),
                names.join(", ")
            )))
        }
    }
}

/// All documents, those of a `List` one by one.
fn read(text: &str, path: &Path) -> Result<Vec<Document>, Error> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let found: Vec<Spanned<Value>> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| syntax(&error, text, path))?;
    let mut documents = Vec::new();
    for Spanned {
        mut value, defined, ..
    } in found
    {
        let line = usize::try_from(defined.line()).unwrap_or_default();
        if value["kind"] != "List" || !value["items"].is_array() {
            documents.push(Document { line, value });
            continue;
        }
        if let Value::Array(items) = value["items"].take() {
            documents.extend(items.into_iter().map(|value| Document { line, value }));
        }
    }
    Ok(documents)
}

/// A document's kind and name, for messages.
fn named(value: &Value) -> String {
    let kind = value["kind"]
        .as_str()
        .unwrap_or("a document without `kind`");
    match value["metadata"]["name"].as_str() {
        Some(name) => format!("{kind} `{name}`"),
        None => kind.to_owned(),
    }
}

/// The line that is at fault, and why.
fn syntax(error: &YamlError, text: &str, path: &Path) -> Error {
    let line = error.location().map_or(0, |location| location.line());
    let source_line = usize::try_from(line)
        .ok()
        .and_then(|line| line.checked_sub(1))
        .and_then(|index| text.lines().nth(index))
        .unwrap_or_default();
    Error::Syntax {
        path: path.to_owned(),
        line,
        message: in_words(error.without_snippet()),
        source_line: source_line.trim().to_owned(),
    }
}

/// What is said of a file whose anchors unfold without end.
const TOO_MUCH: &str = "it unfolds to more than a manifest may hold: write it without anchors";

/// The parser's message for whoever wrote the file: without its own mention of the place, and without what it tells programmers.
fn in_words(error: &YamlError) -> String {
    match error {
        YamlError::DuplicateMappingKey { key: Some(key), .. } => {
            format!("`{key}` stands there a second time: remove one of the two")
        }
        YamlError::DuplicateMappingKey { .. } => {
            "a key stands there a second time: remove one of the two".to_owned()
        }
        YamlError::NonFiniteFloat { value, .. } => {
            format!("`{value}` is not finite, expected a number")
        }
        YamlError::Budget { .. }
        | YamlError::AliasReplayCounterOverflow { .. }
        | YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::AliasExpansionLimitExceeded { .. }
        | YamlError::AliasReplayStackDepthExceeded { .. } => TOO_MUCH.to_owned(),
        YamlError::RecursiveReferencesRequireWeakTypes { .. } => {
            "an alias stands within what it refers to: write it out".to_owned()
        }
        YamlError::InvalidScalar { .. } => "the value is not what its tag says".to_owned(),
        other => {
            let message = other.to_string();
            let message = message.lines().next().unwrap_or_default();
            let message = message
                .split_once(" at line ")
                .map_or(message, |(before, _)| before)
                .trim_start_matches("error: ");
            // Within a value the parser hands its limits on as a text.
            match message.starts_with("budget breached") {
                true => TOO_MUCH.to_owned(),
                false => message.to_owned(),
            }
        }
    }
}
