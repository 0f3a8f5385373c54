//! The ConfigMap with the manifest that the trainer reads. Immutable: the spec it carries is, too.

use std::collections::BTreeMap;

use finetune_crds::FineTuneJob;
use finetune_crds::names::{GROUP, JOB_FILE_KEY, VERSION};
use k8s_openapi::api::core::v1::ConfigMap;

use super::super::seen::ManifestSeen;
use super::super::validate::Validated;
use super::{child_metadata, labels};

/// Its name.
pub fn name(job: &str) -> String {
    format!("{job}-manifest")
}

/// Whether a ConfigMap holds the manifest of `job`: what it says is compared, not how. Another version may have written it,
/// with other fields at their defaults.
pub fn holds(job: &Validated, seen: &ManifestSeen) -> bool {
    let Some(text) = &seen.0 else {
        return false;
    };
    *text == manifest(job)
        || serde_saphyr::from_str::<FineTuneJob>(text).is_ok_and(|read| {
            read.metadata.name.as_ref() == Some(&job.name)
                && read.metadata.namespace.as_ref() == Some(&job.namespace)
                && read.metadata.uid.as_ref() == Some(&job.uid)
                && read.spec == job.spec
        })
}

/// The manifest as this version writes it.
fn manifest(job: &Validated) -> String {
    let manifest = serde_json::json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "FineTuneJob",
        "metadata": { "name": job.name, "namespace": job.namespace, "uid": job.uid },
        "spec": job.spec,
    });
    // JSON is YAML, but people read this with kubectl. If it cannot be written as YAML, JSON serves.
    serde_saphyr::to_string(&manifest).unwrap_or_else(|_| manifest.to_string())
}

/// The ConfigMap: what the same file by hand would say, and the UID that only the cluster knows.
pub fn config_map(job: &Validated) -> ConfigMap {
    ConfigMap {
        metadata: child_metadata(job, name(&job.name), labels::ours(&job.name)),
        immutable: Some(true),
        data: Some(BTreeMap::from([(JOB_FILE_KEY.to_owned(), manifest(job))])),
        binary_data: None,
    }
}
