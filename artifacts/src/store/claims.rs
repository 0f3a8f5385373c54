//! Where the volumes of PersistentVolumeClaims are on this machine: a folder each, below one that the operator names in
//! the environment of its pods.

use std::path::PathBuf;

use finetune_crds::names::CLAIMS_VARIABLE;

use crate::error::{Error, Result};
use crate::uri::Location;

/// The folder of a claim's volume.
pub(super) fn folder_of(claim: &str) -> Result<PathBuf> {
    let subject = format!("PersistentVolumeClaim `{claim}`");
    let Some(root) = root() else {
        return Err(Error::invalid(
            subject,
            format!(
                "is not mounted here: a job in a cluster reads pvc://, because its pods mount the claim; by hand use file:// \
                 with the folder, or set {CLAIMS_VARIABLE} to a folder that holds one folder for each claim"
            ),
        ));
    };
    let folder = root.join(claim);
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(Error::invalid(
        subject,
        format!(
            "is not mounted here: expected the folder {}, because {CLAIMS_VARIABLE} is {}",
            folder.display(),
            root.display()
        ),
    ))
}

/// The folder of a location on this machine, where it has one.
pub(super) fn local_folder(location: &Location) -> Option<PathBuf> {
    match location {
        Location::File { path, .. } => Some(path.clone()),
        Location::Claim { claim, path, .. } => Some(root()?.join(claim).join(path)),
        Location::Bucket { .. } | Location::Hub { .. } | Location::Https { .. } => None,
    }
}

fn root() -> Option<PathBuf> {
    std::env::var_os(CLAIMS_VARIABLE)
        .filter(|root| !root.is_empty())
        .map(PathBuf::from)
}
