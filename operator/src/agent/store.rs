//! A version's files: from object storage to a checked folder that the engine may read.
//!
//! Nothing reaches an engine before manifest, hashes and weights were checked here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::publish;
use finetune_artifacts::store::Store;
use finetune_crds::contract::layout::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, GOLDEN, version_folder};
use finetune_crds::contract::{Golden, OutcomeReason};

use super::golden;

/// What is fetched of a version; nothing else of it ever lies beside the engine.
const FILES: [&str; 3] = [ADAPTER_CONFIG, ADAPTER_WEIGHTS, GOLDEN];

/// How the name of every version's folder begins.
const VERSION_PREFIX: &str = "sha256-";

/// Where versions come from and go to.
#[derive(Clone, Debug)]
pub(crate) struct Versions {
    /// The folder below which each version has its own, named by its digest.
    pub folder: PathBuf,
    /// The mounted Secret; `None` for the pod's own identity.
    pub credentials: Option<PathBuf>,
    /// The Secret's name, for messages.
    pub secret: Option<String>,
}

/// A version whose files are here and were checked.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    /// Its folder.
    pub folder: String,
    /// What its engine must answer.
    pub golden: Golden,
}

/// Why a version's files are not here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum FetchError {
    /// The store, the network or a Secret, which may get better without a change of what is desired.
    #[error("{0}")]
    Transient(String),
    /// The files themselves.
    #[error("{0}")]
    Permanent(String),
}

impl Versions {
    /// The name of a version's folder.
    pub(crate) fn folder_name(digest: &str) -> String {
        version_folder(digest).trim_end_matches('/').to_owned()
    }

    /// Removes every version's folder but those named in `keep`. What cannot be removed costs room, nothing else.
    pub(crate) async fn sweep(&self, keep: &BTreeSet<String>) {
        let Ok(mut entries) = tokio::fs::read_dir(&self.folder).await else {
            return;
        };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            if keep.contains(&name) || !name.starts_with(VERSION_PREFIX) {
                continue;
            }
            match tokio::fs::remove_dir_all(entry.path()).await {
                Ok(()) => tracing::info!(folder = name, "removed the files of an old version"),
                Err(error) => tracing::warn!(folder = name, %error, "failed to remove"),
            }
        }
    }

    /// Fetches and checks a version. Files that are here already are checked again, and neither store nor Secret is
    /// asked for them: an agent that has restarted while its store is away serves on.
    pub(crate) async fn fetch(&self, uri: &str, digest: &str) -> Result<Fetched, FetchError> {
        let folder = self.folder.join(Self::folder_name(digest));
        if publish::fetched(digest, &folder, &FILES).await.is_none() {
            // Read each time: the Secret may have come or changed.
            let credentials = match &self.credentials {
                Some(mount) => Credentials::from_secret(mount, self.secret.as_deref())?,
                None => Credentials::from_environment(),
            };
            let store = Store::open(uri, &credentials)?;
            publish::fetch(&store, digest, &folder, &FILES).await?;
        }
        let checked = folder.clone();
        let golden = tokio::task::spawn_blocking(move || check(&checked)).await;
        let golden = golden
            .map_err(|error| FetchError::Transient(error.to_string()))?
            .map_err(FetchError::Permanent)?;
        Ok(Fetched {
            folder: folder.display().to_string(),
            golden,
        })
    }
}

impl From<finetune_artifacts::Error> for FetchError {
    fn from(error: finetune_artifacts::Error) -> Self {
        match error.reason() {
            OutcomeReason::InvalidInput => Self::Permanent(error.to_string()),
            _ => Self::Transient(error.to_string()),
        }
    }
}

/// Checks the files' content. The hashes say that they are what was published, not that it makes sense.
fn check(folder: &Path) -> Result<Golden, String> {
    let read = |name: &str| {
        std::fs::read(folder.join(name)).map_err(|error| format!("failed to read {name}: {error}"))
    };
    super::weights::check(folder)?;
    golden::parse(&read(GOLDEN)?)
}
