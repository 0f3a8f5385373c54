//! Reads `job.yaml`: a FineTuneJob manifest, as a cluster has it or as a person writes it for use by hand.
//!
//! What the API server's schema would refuse is refused here too, because by hand no API server has looked: `documents` reads
//! the file as kubectl does, `schema` holds it against the schema. Every error names the field and, where the text shows it, the
//! line. Nothing here touches the network.

use std::path::{Path, PathBuf};

use finetune_crds::FineTuneJobSpec;

use crate::failure::Failure;
use crate::job::{Job, TrainingMethod, TrainingObjective};
use crate::validate::{Fault, cut, validate};
use documents::Document;
use frame::Metadata;

pub use meant::{Meant, Other};

mod documents;
mod encoding;
mod frame;
mod meant;
mod schema;
mod tags;
#[cfg(test)]
mod tests;

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there or not readable.
    #[error("failed to read the manifest {}: {source}; name a FineTuneJob manifest with --file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not UTF-8.
    #[error("{}: {problem}: save it as UTF-8", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        problem: String,
    },
    /// The file is not YAML.
    #[error("{}: line {line}: {message}{}", path.display(), shown(source_line))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong there.
        message: String,
        /// The line's text.
        source_line: String,
    },
    /// The file holds no FineTuneJob, or more than one.
    #[error("{}: {message}", path.display())]
    Documents {
        /// The file.
        path: PathBuf,
        /// What it holds.
        message: String,
    },
    /// Fields are unknown, missing, of the wrong type or out of bounds.
    #[error("{}: {}", path.display(), listed(faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// All of them, each that is listed with its line.
        faults: Vec<(Option<usize>, Fault)>,
    },
    /// The spec is not the one that the command line names.
    #[error(
        "{}: spec has the digest {found}, but --spec-digest is {expected}: {}",
        path.display(),
        meant::why_other(unknown)
    )]
    OtherSpec {
        /// The file.
        path: PathBuf,
        /// The digest of its spec.
        found: String,
        /// That of the spec that was meant.
        expected: String,
        /// Its fields that are not known here.
        unknown: Vec<String>,
    },
    /// The job is not the one that the command line names.
    #[error("{}: {}: {}", path.display(), meant::listed(others), meant::CHANGED)]
    OtherJob {
        /// The file.
        path: PathBuf,
        /// What of its metadata is another's.
        others: Vec<Other>,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::invalid(error)
    }
}

/// Reads and checks the manifest at `path`, which must be the one that is `meant`. With a digest of its spec it is a cluster's:
/// a field that is not known here is then a warning, for the operator may be newer than this trainer.
pub fn read(path: &Path, meant: &Meant<'_>) -> Result<Job, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let text = encoding::decoded(bytes).map_err(|problem| Error::Encoding {
        path: path.to_owned(),
        problem,
    })?;
    parse_as(&text, path, meant)
}

/// The same for the text of a manifest that was written by hand; `path` is for messages only.
pub fn parse(text: &str, path: &Path) -> Result<Job, Error> {
    parse_as(text, path, &Meant::default())
}

fn parse_as(text: &str, path: &Path, meant: &Meant<'_>) -> Result<Job, Error> {
    let Document { line, value: raw } = documents::job(text, path)?;
    let refused = |faults| refused(path, text, line, faults);
    let mut faults = frame::faults(&raw);
    let mut spec = raw.get("spec").cloned().unwrap_or_default();
    let mut unknown = Vec::new();
    if spec.is_object() {
        let found = schema::conform_spec(&mut spec);
        let is_known = |fault: &Fault| fault.message != schema::UNKNOWN;
        let (wrong, others): (Vec<_>, Vec<_>) = found.into_iter().partition(is_known);
        faults.extend(wrong);
        unknown = others;
    }
    if meant.spec_digest.is_none() {
        faults.append(&mut unknown);
    }
    if !faults.is_empty() {
        return Err(refused(faults));
    }
    let out_of_bounds = schema::out_of_bounds(&spec, meant.spec_digest.is_some());
    let spec: FineTuneJobSpec = match serde_json::from_value(spec) {
        Ok(spec) => spec,
        // A number that its type does not hold.
        Err(_) if !out_of_bounds.is_empty() => return Err(refused(out_of_bounds)),
        // What the schema lets pass and the types do not would be a fault of the schema's.
        Err(error) => {
            let message = format!("is refused: {error}");
            return Err(refused(vec![Fault::new("spec", message)]));
        }
    };
    let spec_digest = spec.digest();
    let unknown = unknown.into_iter().map(|fault| fault.field).collect();
    meant.check_spec(path, &spec_digest, unknown)?;
    let metadata = Metadata::of(&raw, &spec_digest);
    meant.check_metadata(path, &metadata)?;
    let faults = without_repetition(out_of_bounds, validate(&metadata.name, &spec));
    if !faults.is_empty() {
        return Err(refused(faults));
    }
    Ok(Job {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        spec_digest,
        method: TrainingMethod::of(&spec.method),
        objective: TrainingObjective::of(&spec),
        spec,
    })
}

/// The faults of both kinds, for each field those of one: a rule says more of its value than a bound does.
fn without_repetition(mut out_of_bounds: Vec<Fault>, against_rules: Vec<Fault>) -> Vec<Fault> {
    out_of_bounds.retain(|bound| against_rules.iter().all(|rule| rule.field != bound.field));
    out_of_bounds.extend(against_rules);
    out_of_bounds
}

fn refused(path: &Path, text: &str, start: usize, faults: Vec<Fault>) -> Error {
    Error::Faults {
        path: path.to_owned(),
        faults: faults
            .into_iter()
            .enumerate()
            .map(|(index, fault)| {
                let is_listed = index < LISTED;
                let line = is_listed.then(|| line_of(text, start, &fault.field));
                (line.flatten(), fault)
            })
            .collect(),
    }
}

/// The line, from 1, on which `field` stands in the document that begins at line `start`, or the one of its nearest parent that
/// stands there.
///
/// Keys are looked for one below the other, which finds them in block style, the style that people write.
fn line_of(text: &str, start: usize, field: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = None;
    let mut from = start.saturating_sub(1);
    for key in field.split('.') {
        let key = key.split('[').next().unwrap_or(key);
        let holds = |line: &&str| {
            let line = line.trim_start().trim_start_matches("- ").trim_start();
            // A manifest in JSON is YAML too, with its keys in quotes.
            line.trim_start_matches('"')
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start_matches('"').starts_with(':'))
        };
        let Some(offset) = lines.get(from..)?.iter().position(holds) else {
            break;
        };
        from += offset;
        found = Some(from + 1);
    }
    found
}

fn shown(line: &str) -> String {
    if line.is_empty() {
        String::new()
    } else {
        format!(" in `{}`", cut(line))
    }
}

/// The most faults that are listed: whoever mends them needs no more at a time, and a list of wrong items has one for each.
const LISTED: usize = 20;

fn listed(faults: &[(Option<usize>, Fault)]) -> String {
    let mut each: Vec<String> = faults
        .iter()
        .take(LISTED)
        .map(|(line, Fault { field, message })| match line {
            Some(line) => format!("line {line}: {} {message}", cut(field)),
            None => format!("{} {message}", cut(field)),
        })
        .collect();
    if faults.len() > LISTED {
        each.push(format!("and {} more", faults.len() - LISTED));
    }
    each.join("; ")
}
