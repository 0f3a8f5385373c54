//! The ConfigMap with the manifest that the trainer reads. Immutable: the spec it carries is, too.

use std::collections::BTreeMap;

use finetune_crds::names::{GROUP, JOB_FILE_KEY, VERSION};
use k8s_openapi::api::core::v1::ConfigMap;

use super::super::validate::Validated;
use super::{child_metadata, labels};

/// Its name.
pub fn name(job: &str) -> String {
    format!("{job}-manifest")
}

/// The ConfigMap: what the same file by hand would say, and the UID that only the cluster knows.
pub fn config_map(job: &Validated) -> ConfigMap {
    let manifest = serde_json::json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "FineTuneJob",
        "metadata": { "name": job.name, "namespace": job.namespace, "uid": job.uid },
        "spec": job.spec,
    });
    // JSON is YAML, but people read this with kubectl. If it cannot be written as YAML, JSON serves.
    let text = serde_saphyr::to_string(&manifest).unwrap_or_else(|_| manifest.to_string());
    ConfigMap {
        metadata: child_metadata(job, name(&job.name), labels::ours(&job.name)),
        immutable: Some(true),
        data: Some(BTreeMap::from([(JOB_FILE_KEY.to_owned(), text)])),
        binary_data: None,
    }
}
