//! Reads `job.yaml`: a FineTuneJob manifest, as a cluster has it or as a person writes it for use by hand.
//!
//! What the API server's schema would refuse is refused here too, because by hand no API server has looked. Every
//! error names the field and, where the text shows it, the line. Nothing here touches the network.

use std::path::{Path, PathBuf};

use finetune_crds::fine_tune_job::{Lora, Quantization};
use finetune_crds::{FineTuneJob, FineTuneJobSpec, names};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::validate::{Fault, validate};

/// A manifest that was read, checked and found good.
#[derive(Clone, Debug)]
pub struct Job {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, or `default`.
    pub namespace: String,
    /// `metadata.uid`, or an id derived from namespace, name and spec for a manifest written by hand.
    pub uid: String,
    /// The digest of [`Self::spec`].
    pub spec_digest: String,
    /// What to do.
    pub spec: FineTuneJobSpec,
}

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
    /// The file is not YAML, or a value has the wrong type.
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
    /// Fields are unknown, missing or out of bounds.
    #[error("{}: {}", path.display(), listed(faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// All of them, each with its line.
        faults: Vec<(Option<usize>, Fault)>,
    },
    /// The spec is not the one that the command line names.
    #[error(
        "{}: spec has the digest {found}, but --spec-digest is {expected}: {}",
        path.display(),
        why_other(unknown)
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
}

/// Refuses a cluster's manifest whose spec is not the one that was meant, and names the fields of it that are not known here.
fn hold_to(path: &Path, expected: &str, found: &str, unknown: Vec<String>) -> Result<(), Error> {
    if found != expected {
        return Err(Error::OtherSpec {
            path: path.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
            unknown,
        });
    }
    if !unknown.is_empty() {
        tracing::warn!(
            "{}: this trainer ({}) does not know {} and passes over what they say: its image is older than the operator; give both the same version",
            path.display(),
            env!("CARGO_PKG_VERSION"),
            unknown.join(", ")
        );
    }
    Ok(())
}

/// Why a spec may have another digest than was meant.
fn why_other(unknown: &[String]) -> String {
    if unknown.is_empty() {
        return "somebody has changed the manifest since; delete it, and the operator writes it again".to_owned();
    }
    format!(
        "this trainer ({}) does not know {}, on which the training depends; use a trainer image of the operator's version",
        env!("CARGO_PKG_VERSION"),
        unknown.join(", ")
    )
}

impl Job {
    /// Reads and checks the manifest at `path`. Where `spec_digest` is given, the manifest is a cluster's and its spec must have
    /// this digest; a field that is not known here is then a warning, for the operator may be newer than this trainer.
    pub fn read(path: &Path, spec_digest: Option<&str>) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse_as(&text, path, spec_digest)
    }

    /// The same for the text of a manifest that was written by hand; `path` is for messages only.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        Self::parse_as(text, path, None)
    }

    fn parse_as(text: &str, path: &Path, expected_digest: Option<&str>) -> Result<Self, Error> {
        let raw: Value = from_yaml(text, path)?;
        let faults = faults_of_kind(&raw);
        if !faults.is_empty() {
            return Err(refused(path, text, faults));
        }
        let fine_tune_job: FineTuneJob = from_yaml(text, path)?;
        let mut faults = unknown_fields(&raw, &fine_tune_job.spec);
        let spec_digest = fine_tune_job.spec.digest();
        if let Some(expected) = expected_digest {
            let unknown: Vec<String> = faults.drain(..).map(|fault| fault.field).collect();
            hold_to(path, expected, &spec_digest, unknown)?;
        }
        let name = fine_tune_job.metadata.name.unwrap_or_default();
        faults.extend(validate(&name, &fine_tune_job.spec));
        if !faults.is_empty() {
            return Err(refused(path, text, faults));
        }
        let namespace = fine_tune_job
            .metadata
            .namespace
            .unwrap_or_else(|| "default".to_owned());
        let uid = fine_tune_job
            .metadata
            .uid
            .unwrap_or_else(|| derived_uid(&namespace, &name, &spec_digest));
        Ok(Self {
            name,
            namespace,
            uid,
            spec_digest,
            spec: fine_tune_job.spec,
        })
    }

    /// The adapter that is trained; `None` with method `full`.
    pub fn lora(&self) -> Option<Lora> {
        let method = &self.spec.method;
        method.lora.clone().or_else(|| {
            method
                .qlora
                .as_ref()
                .map(finetune_crds::fine_tune_job::Qlora::lora)
        })
    }

    /// Whether the adapter is written for llama.cpp too.
    pub fn wants_gguf_adapter(&self) -> bool {
        self.spec
            .output
            .as_ref()
            .is_some_and(|output| output.gguf_adapter)
    }

    /// How the base is held in 4 bits; `None` where it is dense.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.spec
            .method
            .qlora
            .as_ref()
            .map(|qlora| &qlora.quantization)
    }
}

/// `text` as a `T`, or the line that is at fault.
fn from_yaml<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T, Error> {
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        let source_line = usize::try_from(line)
            .ok()
            .and_then(|line| line.checked_sub(1))
            .and_then(|index| text.lines().nth(index))
            .unwrap_or_default();
        Error::Syntax {
            path: path.to_owned(),
            line,
            message: without_place(&error.without_snippet().to_string()),
            source_line: source_line.trim().to_owned(),
        }
    })
}

/// The parser's message without its own mention of the place, which stands before it already.
fn without_place(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    message
        .split_once(" at line ")
        .map_or(message, |(before, _)| before)
        .trim_start_matches("error: ")
        .to_owned()
}

/// Whether this is a FineTuneJob at all.
fn faults_of_kind(raw: &Value) -> Vec<Fault> {
    let api_version = format!("{}/{}", names::GROUP, names::VERSION);
    [
        ("apiVersion", api_version.as_str()),
        ("kind", "FineTuneJob"),
    ]
    .into_iter()
    .filter_map(|(field, expected)| {
        let seen = raw.get(field).and_then(Value::as_str).unwrap_or_default();
        (seen != expected).then(|| Fault::new(field, format!("is `{seen}`, expected `{expected}`")))
    })
    .chain(
        raw.get("spec")
            .is_none_or(|spec| !spec.is_object())
            .then(|| Fault::new("spec", "is absent, expected the fields of a FineTuneJob")),
    )
    .collect()
}

/// The fields of `raw.spec` that the types do not know: a typing error would otherwise be a setting that silently does
/// nothing.
fn unknown_fields(raw: &Value, spec: &FineTuneJobSpec) -> Vec<Fault> {
    let known = serde_json::to_value(spec).unwrap_or_default();
    let mut faults = Vec::new();
    compare(
        "spec",
        raw.get("spec").unwrap_or(&Value::Null),
        &known,
        &mut faults,
    );
    faults
}

fn compare(path: &str, raw: &Value, known: &Value, faults: &mut Vec<Fault>) {
    match (raw, known) {
        (Value::Object(raw), Value::Object(known)) => {
            for (key, value) in raw {
                let path = format!("{path}.{key}");
                match known.get(key) {
                    Some(known) => compare(&path, value, known, faults),
                    None if is_empty(value) => {}
                    None => faults.push(Fault::new(
                        &path,
                        "is not a field of this version: remove it or mend its spelling",
                    )),
                }
            }
        }
        (Value::Array(raw), Value::Array(known)) => {
            for (index, (raw, known)) in raw.iter().zip(known).enumerate() {
                compare(&format!("{path}[{index}]"), raw, known, faults);
            }
        }
        _ => {}
    }
}

/// An empty value is left out when the types are written again, so its absence there says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn refused(path: &Path, text: &str, faults: Vec<Fault>) -> Error {
    Error::Faults {
        path: path.to_owned(),
        faults: faults
            .into_iter()
            .map(|fault| (line_of(text, &fault.field), fault))
            .collect(),
    }
}

/// The line, from 1, on which `field` stands in `text`, or the one of its nearest parent that stands there.
///
/// Keys are looked for one below the other, which finds them in block style, the style that people write.
fn line_of(text: &str, field: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = None;
    let mut from = 0;
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

/// An id in the shape of a UID, the same for the same manifest.
fn derived_uid(namespace: &str, name: &str, spec_digest: &str) -> String {
    let hex = hex::encode(Sha256::digest(format!("{namespace}/{name}/{spec_digest}")));
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..32]
    )
}

fn shown(line: &str) -> String {
    if line.is_empty() {
        String::new()
    } else {
        format!(" in `{line}`")
    }
}

fn listed(faults: &[(Option<usize>, Fault)]) -> String {
    let each: Vec<String> = faults
        .iter()
        .map(|(line, fault)| match line {
            Some(line) => format!("line {line}: {fault}"),
            None => fault.to_string(),
        })
        .collect();
    each.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: support
spec:
  baseModel:
    uri: file:///base/
  dataset:
    train:
      - uri: file:///train.jsonl
  method:
    lora:
      rank: 4
";

    fn refusal(text: &str) -> String {
        Job::parse(text, Path::new("job.yaml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_manifest_by_hand_gets_a_namespace_and_an_id_that_stays() {
        let job = Job::parse(GOOD, Path::new("job.yaml")).unwrap();
        assert_eq!(job.namespace, "default");
        assert_eq!(job.uid.len(), 36);
        assert_eq!(
            job.uid,
            Job::parse(GOOD, Path::new("other.yaml")).unwrap().uid
        );
        assert_ne!(
            job.uid,
            Job::parse(&GOOD.replace("rank: 4", "rank: 8"), Path::new("job.yaml"))
                .unwrap()
                .uid
        );
    }

    #[test]
    fn a_uid_of_the_cluster_is_kept() {
        let text = GOOD.replace(
            "  name: support",
            "  name: support\n  uid: abc\n  namespace: team-a",
        );
        let job = Job::parse(&text, Path::new("job.yaml")).unwrap();
        assert_eq!(
            (job.uid.as_str(), job.namespace.as_str()),
            ("abc", "team-a")
        );
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line() {
        let message = refusal(&GOOD.replace("rank: 4", "rnak: 4"));
        assert!(
            message.contains("line 13: spec.method.lora.rnak"),
            "{message}"
        );
    }

    #[test]
    fn an_unknown_field_of_a_clusters_manifest_is_passed_over_and_by_hand_refused() {
        let path = Path::new("job.yaml");
        let digest = Job::parse(GOOD, path).unwrap().spec_digest;
        let newer = format!("{GOOD}  suspend: false\n");
        let job = Job::parse_as(&newer, path, Some(&digest)).unwrap();
        assert_eq!(job.spec_digest, digest);
        assert!(refusal(&newer).contains("spec.suspend"));
    }

    #[test]
    fn a_manifest_of_another_digest_is_refused_with_both() {
        let path = Path::new("job.yaml");
        let meant = format!("sha256:{}", "0".repeat(64));
        let found = Job::parse(GOOD, path).unwrap().spec_digest;
        let message = Job::parse_as(GOOD, path, Some(&meant))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(&meant) && message.contains(&found),
            "{message}"
        );
        let newer = format!("{GOOD}  novelty: 3\n");
        let message = Job::parse_as(&newer, path, Some(&meant))
            .unwrap_err()
            .to_string();
        assert!(message.contains("does not know spec.novelty"), "{message}");
    }

    #[test]
    fn what_is_wrong_with_a_clusters_manifest_is_refused_too() {
        let path = Path::new("job.yaml");
        let text = GOOD.replace("rank: 4", "rank: 0");
        let job: FineTuneJob = from_yaml(&text, path).unwrap();
        let error = Job::parse_as(&text, path, Some(&job.spec.digest())).unwrap_err();
        assert!(
            error.to_string().contains("spec.method.lora.rank"),
            "{error}"
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_its_line() {
        let message = refusal(&GOOD.replace("rank: 4", "rank: four"));
        assert!(
            message.contains("line 13") && message.contains("rank: four"),
            "{message}"
        );
    }

    #[test]
    fn two_methods_are_refused() {
        let message = refusal(&format!("{GOOD}    full: {{}}\n"));
        assert!(message.contains("line 11: spec.method"), "{message}");
    }

    #[test]
    fn another_kind_is_refused() {
        let message = refusal(&GOOD.replace("kind: FineTuneJob", "kind: Adapter"));
        assert!(
            message.contains("line 2: kind is `Adapter`, expected `FineTuneJob`"),
            "{message}"
        );
    }
}
