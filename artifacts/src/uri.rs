//! Where things lie: `file:///folder/`, `s3://bucket/key`, `gs://bucket/key`, `az://container/key`, `pvc://claim/path`,
//! `hf://owner/name` or `https://host/file`. Nothing else is accepted. Only files and buckets can be written to.
//!
//! A key is taken as it is written, without percent-decoding, as the stores' own tools do. Segments that climb (`..`) are
//! refused.

mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

use crate::error::{Error, Result};

/// A parsed URI.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Location {
    /// An absolute path of the local file system.
    File {
        /// The path, without a slash at its end.
        path: PathBuf,
        /// Whether the URI ended in `/`: all files below.
        folder: bool,
    },
    /// An object or a prefix in a bucket.
    Bucket {
        /// Whose bucket it is.
        provider: Provider,
        /// The bucket, which Azure calls a container.
        bucket: String,
        /// The key, without slashes at either end; empty for the whole bucket.
        key: String,
        /// Whether the URI ended in `/`: all objects below.
        folder: bool,
    },
    /// A file or folder on a PersistentVolumeClaim, which the operator mounts in its pods. Read only.
    Claim {
        /// The claim, in the job's namespace.
        claim: String,
        /// The path in it, without slashes at either end; empty for the whole volume.
        path: String,
        /// Whether the URI ended in `/`: all files below.
        folder: bool,
    },
    /// A repository of the Hugging Face Hub, or what lies in it. Read only.
    Hub {
        /// Models or data.
        kind: HubKind,
        /// `owner/name`.
        repository: String,
        /// The branch, tag or commit after `@`.
        revision: Option<String>,
        /// The path in it, without slashes at either end; empty for the whole repository.
        path: String,
        /// Whether all files below are meant.
        folder: bool,
    },
    /// One file. Read only.
    Https {
        /// The URL, its query included, which may hold a signature: never shown.
        url: Url,
        /// Whether the folder in which it lies is meant.
        folder: bool,
    },
}

/// Whose API a bucket has.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Provider {
    /// `s3://`: AWS, and every store that speaks S3.
    S3,
    /// `gs://`: Google Cloud Storage.
    Google,
    /// `az://`: Azure Blob Storage.
    Azure,
}

impl Provider {
    /// The scheme of its URIs.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
        }
    }

    /// What it calls a bucket.
    pub const fn bucket_word(self) -> &'static str {
        match self {
            Self::S3 | Self::Google => "bucket",
            Self::Azure => "container",
        }
    }
}

/// What a repository of the Hub holds.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum HubKind {
    /// A model: `hf://owner/name`.
    Model,
    /// Data: `hf://datasets/owner/name`.
    Dataset,
}

impl HubKind {
    /// The word in the Hub's routes.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

impl Location {
    /// Parses a URI.
    pub fn parse(uri: &str) -> Result<Self> {
        parse::location(uri).map_err(|problem| Error::invalid(format!("URI `{uri}`"), problem))
    }

    /// Parses what `--work` takes: a URI, or a directory relative to the current one.
    pub fn parse_folder(text: &str) -> Result<Self> {
        let location = if text.contains("://") {
            Self::parse(text)?
        } else {
            let path = std::path::absolute(text)
                .map_err(|source| Error::local("resolve", Path::new(text), source))?;
            Self::parse(&format!("file://{}", path.display()))?
        };
        Ok(location.into_folder())
    }

    /// Whether results can be written there.
    pub const fn is_writable(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Bucket { .. })
    }

    /// Whether it names everything below rather than one object.
    pub const fn is_folder(&self) -> bool {
        match self {
            Self::File { folder, .. }
            | Self::Bucket { folder, .. }
            | Self::Claim { folder, .. }
            | Self::Hub { folder, .. }
            | Self::Https { folder, .. } => *folder,
        }
    }

    /// The same as a folder.
    #[must_use]
    pub fn into_folder(mut self) -> Self {
        match &mut self {
            Self::File { folder, .. }
            | Self::Bucket { folder, .. }
            | Self::Claim { folder, .. }
            | Self::Hub { folder, .. }
            | Self::Https { folder, .. } => *folder = true,
        }
        self
    }

    /// The folder it lies in and its name there. `None` for the root of a bucket or of the file system.
    pub fn split(&self) -> Option<(Self, String)> {
        let mut parent = self.clone().into_folder();
        let name = match &mut parent {
            Self::File { path, .. } => {
                let name = path.file_name()?.to_str()?.to_owned();
                path.pop();
                name
            }
            Self::Bucket { key: path, .. } | Self::Claim { path, .. } | Self::Hub { path, .. } => {
                if path.is_empty() {
                    return None;
                }
                let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
                let (above, name) = (above.to_owned(), name.to_owned());
                *path = above;
                name
            }
            Self::Https { url, .. } => url.path_segments()?.next_back()?.to_owned(),
        };
        Some((parent, name))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |empty: bool, folder: bool| if folder && !empty { "/" } else { "" };
        match self {
            Self::File { path, folder } => {
                let root = path.as_os_str() == "/";
                write!(formatter, "file://{}{}", path.display(), end(root, *folder))
            }
            Self::Bucket {
                provider,
                bucket,
                key,
                folder,
            } => write!(
                formatter,
                "{}://{bucket}/{key}{}",
                provider.scheme(),
                end(key.is_empty(), *folder)
            ),
            Self::Claim {
                claim,
                path,
                folder,
            } => write!(
                formatter,
                "pvc://{claim}/{path}{}",
                end(path.is_empty(), *folder)
            ),
            Self::Hub {
                kind,
                repository,
                revision,
                path,
                folder,
            } => {
                formatter.write_str(match kind {
                    HubKind::Model => "hf://",
                    HubKind::Dataset => "hf://datasets/",
                })?;
                formatter.write_str(repository)?;
                if let Some(revision) = revision {
                    write!(formatter, "@{revision}")?;
                }
                write!(formatter, "/{path}{}", end(path.is_empty(), *folder))
            }
            Self::Https { url, folder } => {
                let mut shown = url.clone();
                shown.set_query(None);
                if *folder {
                    let name = shown.path().rsplit('/').next().unwrap_or_default().len();
                    let shown = shown.as_str();
                    return formatter.write_str(&shown[..shown.len() - name]);
                }
                formatter.write_str(shown.as_str())
            }
        }
    }
}
