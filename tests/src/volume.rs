//! Volumes of the node's own disk, bound to a claim: there is no provisioner.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use crate::cluster::Namespace;
use crate::command;

/// A claim of a test's namespace, its volume, and the folder that both are; volume and folder go with the value.
pub struct Volume {
    /// The folder, which every user may write to.
    pub folder: PathBuf,
    name: String,
}

impl Volume {
    /// Makes a folder, a volume over it, and the claim `claim` bound to it.
    pub fn create(namespace: &Namespace, claim: &str) -> Result<Self> {
        let name = format!("{}-{claim}", namespace.name);
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let everyone = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&folder, everyone)?;
        let volume = Self { folder, name };
        let common = json!({"accessModes": ["ReadWriteMany"], "storageClassName": ""});
        let mut of_volume = common.clone();
        crate::job::merge(
            &mut of_volume,
            json!({
                "capacity": {"storage": "1Gi"},
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": volume.folder, "type": "Directory"},
                "claimRef": {"namespace": namespace.name, "name": claim},
            }),
        );
        let mut of_claim = common;
        crate::job::merge(
            &mut of_claim,
            json!({
                "resources": {"requests": {"storage": "1Gi"}},
                "volumeName": volume.name,
            }),
        );
        let manifest = json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": volume.name}, "spec": of_volume,
        });
        command::run(
            "kubectl",
            &["apply", "--filename", "-"],
            Some(&manifest.to_string()),
        )?;
        let manifest = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim}, "spec": of_claim,
        });
        namespace.apply(&manifest.to_string())?;
        Ok(volume)
    }

    /// The names in the folder, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = command::kubectl(&format!(
            "delete persistentvolume {} --wait=false",
            self.name
        ));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
