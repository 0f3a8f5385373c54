//! The frame of a manifest around its spec, of which the schema says nothing: kind, metadata, and that nothing else stands there.

use finetune_crds::names;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::schema;
use crate::validate::{Fault, cut};

/// The most characters of a DNS label.
const LABEL: usize = 63;
/// The most characters of a UID; Kubernetes gives 36.
const UID: usize = 128;

/// Which job a manifest is of.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) name: String,
    /// `default` where the manifest has none.
    pub(super) namespace: String,
    /// Derived from the rest where the manifest has none.
    pub(super) uid: String,
}

impl Metadata {
    /// That of a manifest whose frame has no faults.
    pub(super) fn of(raw: &Value, spec_digest: &str) -> Self {
        let text_of = |field: &str| raw["metadata"][field].as_str().map(str::to_owned);
        let name = text_of("name").unwrap_or_default();
        let namespace = text_of("namespace").unwrap_or_else(|| "default".to_owned());
        let uid = text_of("uid").unwrap_or_else(|| derived_uid(&namespace, &name, spec_digest));
        Self {
            name,
            namespace,
            uid,
        }
    }
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

/// What is wrong with the frame around the spec, which the schema says nothing of.
pub(super) fn faults(raw: &Value) -> Vec<Fault> {
    let mut faults = faults_of_kind(raw);
    for key in raw.as_object().into_iter().flatten().map(|(key, _)| key) {
        if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&key.as_str()) {
            faults.push(Fault::new(key, schema::UNKNOWN));
        }
    }
    let metadata = &raw["metadata"];
    if !metadata.is_object() && !metadata.is_null() {
        faults.push(Fault::new(
            "metadata",
            format!(
                "is {}, expected `name` and what goes with it",
                schema::shown(metadata)
            ),
        ));
    }
    for field in ["name", "namespace", "uid"] {
        check_text(&format!("metadata.{field}"), &metadata[field], &mut faults);
    }
    faults.extend(namespace_fault(&metadata["namespace"]));
    faults.extend(uid_fault(&metadata["uid"]));
    for field in ["labels", "annotations"] {
        for (key, value) in metadata[field].as_object().into_iter().flatten() {
            check_text(&format!("metadata.{field}.{key}"), value, &mut faults);
        }
    }
    faults
}

/// The namespace becomes a folder of the result: in a cluster the API server has held it to this rule.
fn namespace_fault(namespace: &Value) -> Option<Fault> {
    let namespace = namespace.as_str().filter(|text| !is_label(text))?;
    Some(Fault::new(
        "metadata.namespace",
        format!(
            "is `{}`, expected 1 to {LABEL} of a-z, 0-9 and -, neither first nor last a -: correct it, or remove it for `default`",
            cut(namespace)
        ),
    ))
}

/// A DNS label, as the API server takes for a namespace.
fn is_label(text: &str) -> bool {
    (1..=LABEL).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|each| each.is_ascii_lowercase() || each.is_ascii_digit() || each == b'-')
}

fn uid_fault(uid: &Value) -> Option<Fault> {
    let is_uid = |text: &str| {
        (1..=UID).contains(&text.len())
            && text
                .bytes()
                .all(|each| each.is_ascii_alphanumeric() || each == b'-')
    };
    let uid = uid.as_str().filter(|text| !is_uid(text))?;
    Some(Fault::new(
        "metadata.uid",
        format!(
            "is `{}`, expected 1 to {UID} letters, digits and -: correct it, or remove it for one that follows from the manifest",
            cut(uid)
        ),
    ))
}

fn check_text(field: &str, value: &Value, faults: &mut Vec<Fault>) {
    if !value.is_string() && !value.is_null() {
        faults.push(Fault::new(field, schema::no_text(value)));
    }
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
        (seen != expected)
            .then(|| Fault::new(field, format!("is `{}`, expected `{expected}`", cut(seen))))
    })
    .chain(
        raw.get("spec")
            .is_none_or(|spec| !spec.is_object())
            .then(|| Fault::new("spec", "is absent, expected the fields of a FineTuneJob")),
    )
    .collect()
}
