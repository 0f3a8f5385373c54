//! The documents of a manifest file, and the FineTuneJob among them: as kubectl reads it, which has YAML 1.1's booleans and octal
//! numbers, and passes over empty documents.

use std::path::Path;

use serde_json::Value;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error as YamlError, Spanned};

use super::{Error, LISTED, tags};
use crate::validate::cut;

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
            jobs.push(last);
            Err(refused(format!(
                "holds {} FineTuneJobs ({}), expected one: keep each in a file of its own",
                jobs.len(),
                all_named(&jobs)
            )))
        }
        (None, _) => Err(refused(format!(
            "holds {} documents and no FineTuneJob ({})",
            others.len(),
            all_named(&others)
        ))),
    }
}

/// All documents, those of a `List` one by one.
fn read(text: &str, path: &Path) -> Result<Vec<Document>, Error> {
    if let Some((tag, line)) = tags::foreign(text) {
        let message = format!("the tag `{}` is not known, {}", cut(&tag), tags::KNOWN);
        return Err(at(line, message, text, path));
    }
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
        Some(name) => format!("{} `{}`", cut(kind), cut(name)),
        None => cut(kind).into_owned(),
    }
}

/// The kinds and names of the first documents.
fn all_named(documents: &[Document]) -> String {
    let mut names: Vec<String> = documents
        .iter()
        .take(LISTED)
        .map(|document| named(&document.value))
        .collect();
    if documents.len() > LISTED {
        names.push("…".to_owned());
    }
    names.join(", ")
}

/// The line that is at fault, and why.
fn syntax(error: &YamlError, text: &str, path: &Path) -> Error {
    let line = error.location().map_or(0, |location| location.line());
    at(line, in_words(error.without_snippet()), text, path)
}

/// What is wrong with a line, from 1.
fn at(line: u64, message: String, text: &str, path: &Path) -> Error {
    let source_line = usize::try_from(line)
        .ok()
        .and_then(|line| line.checked_sub(1))
        .and_then(|index| text.lines().nth(index))
        .unwrap_or_default();
    Error::Syntax {
        path: path.to_owned(),
        line,
        message,
        source_line: source_line.trim().to_owned(),
    }
}

/// What is said of a file whose anchors unfold without end.
const TOO_MUCH: &str =
    "it unfolds to more than a manifest may hold: shorten it, and write it without anchors";
/// What is said of a file whose values lie within one another without end.
const TOO_DEEP: &str =
    "it is nested deeper than a manifest may be: check its brackets and its indentation";

/// The parser's message for whoever wrote the file: without its own mention of the place, and without what it tells programmers.
fn in_words(error: &YamlError) -> String {
    match error {
        YamlError::DuplicateMappingKey { key: Some(key), .. } => {
            format!(
                "`{}` stands there a second time: remove one of the two",
                cut(key)
            )
        }
        YamlError::DuplicateMappingKey { .. } => {
            "a key stands there a second time: remove one of the two".to_owned()
        }
        YamlError::NonFiniteFloat { value, .. } => {
            format!("`{}` is not finite, expected a number", cut(value))
        }
        YamlError::Budget {
            breach: BudgetBreach::Depth { .. },
            ..
        } => TOO_DEEP.to_owned(),
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
            if message.starts_with("budget breached: Depth")
                || message.contains("recursion limit exceeded")
            {
                TOO_DEEP.to_owned()
            } else if message.starts_with("budget breached") {
                TOO_MUCH.to_owned()
            } else {
                cut(message).into_owned()
            }
        }
    }
}
