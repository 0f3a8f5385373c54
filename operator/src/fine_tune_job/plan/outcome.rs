//! Whether what a pod says of its end can be true. Pure.
//!
//! A termination message is written by a process that reads foreign data, and a pod can be forged by whoever may write pods.
//! What it names is handed to production, so it is compared with what it must be.

use finetune_artifacts::uri::Location;
use finetune_crds::contract::{Outcome, Published, layout};

use super::super::reasons::Cause;
use super::super::validate::Validated;

/// What a job published, where it must lie: folders follow from the spec and the digests.
#[derive(Debug)]
pub(super) struct Places {
    /// The adapter's digest and folder.
    pub adapter: Option<(String, String)>,
    /// The whole model's.
    pub model: Option<(String, String)>,
    /// The adapter as one file for llama.cpp.
    pub gguf_adapter: Option<String>,
}

/// What an outcome that tells of success says, or why it is not believed.
pub(super) fn places(job: &Validated, outcome: &Outcome) -> Result<Places, Cause> {
    believed(job, outcome).map_err(|fault| {
        Cause::new(
            "OutcomeMismatch",
            format!(
                "the outcome of the pod is not believed: {fault}; nothing was handed over. See who may write pods and Jobs of \
                 this namespace, and whether the trainer image is that of this operator"
            ),
        )
    })
}

fn believed(job: &Validated, outcome: &Outcome) -> Result<Places, String> {
    if !job.spec.has_digest(&outcome.spec_digest) {
        return Err(format!(
            "specDigest is `{}`, expected `{}`",
            shown(&outcome.spec_digest),
            job.spec.digest()
        ));
    }
    let output = job.spec.output.as_ref();
    let output_uri = output
        .and_then(|output| output.uri.as_deref())
        .unwrap_or_default();
    let adapter = match (&outcome.adapter, &job.adapter) {
        (Some(published), Some(name)) => {
            let folder = layout::adapter_folder(output_uri, &job.namespace, name);
            Some(place("adapter", published, &folder)?)
        }
        (Some(_), None) => {
            return Err("it names an adapter, expected a model of method full".to_owned());
        }
        (None, _) => None,
    };
    let wants_model = job.adapter.is_none() || output.is_some_and(|output| output.merged_model);
    let model = match &outcome.model {
        Some(_) if !wants_model => {
            return Err("it names a model, and output.mergedModel is false".to_owned());
        }
        Some(published) => {
            let folder = layout::model_folder(output_uri, &job.namespace, &job.name);
            Some(place("model", published, &folder)?)
        }
        None => None,
    };
    let gguf_adapter = adapter
        .as_ref()
        .filter(|_| output.is_some_and(|output| output.gguf_adapter))
        .map(|(_, folder)| format!("{folder}{}", layout::ADAPTER_GGUF));
    match (&outcome.gguf_adapter, &gguf_adapter) {
        (Some(named), expected) if expected.as_ref() != Some(named) => Err(format!(
            "ggufAdapter is `{}`, expected {}",
            shown(named),
            expected
                .as_ref()
                .map_or_else(|| "none".to_owned(), |expected| format!("`{expected}`"))
        )),
        _ => Ok(Places {
            adapter,
            model,
            gguf_adapter,
        }),
    }
}

/// Digest and folder of what was published below `folder`. A message that is short of room leaves the URI out.
fn place(what: &str, published: &Published, folder: &str) -> Result<(String, String), String> {
    let digest = &published.digest;
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64
        || !hex
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(format!(
            "{what}.digest is `{}`, expected sha256: and 64 hexadecimal digits",
            shown(digest)
        ));
    }
    let expected = as_written(&layout::published_folder(folder, digest));
    if !published.uri.is_empty() && as_written(&published.uri) != expected {
        return Err(format!(
            "{what}.uri is `{}`, expected `{expected}`",
            shown(&published.uri)
        ));
    }
    Ok((digest.clone(), expected))
}

/// A folder's URI as all parts of this project write it.
fn as_written(uri: &str) -> String {
    Location::parse_folder(uri).map_or_else(|_| uri.to_owned(), |location| location.to_string())
}

/// What another process said, short and without what could steer a terminal.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}
