//! A prefix in an object store, or a folder of the local file system: one set of operations for both.
//!
//! What may get better is tried again here, a bounded number of times, so callers need no loops of their own. Whole
//! objects appear or nothing does: a reader never sees half of one.

mod absence;
mod claims;
mod classify;
mod hub;
mod open;
mod pin;
mod transfer;
mod web;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::uri::{Location, Provider};

pub use pin::pin;
pub use transfer::Downloaded;

/// A prefix of a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    location: Location,
    base: Key,
    credentials: Credentials,
    backoff: ExponentialBuilder,
}

/// An object of a listing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its path below the store's prefix.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// The store's word for its content, where it has one. Not a hash: a multipart upload changes it.
    pub etag: Option<String>,
}

/// What [`Store::create`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Creation {
    /// The object holds the given bytes.
    Created,
    /// The object was there with other bytes, and stays as it was.
    AlreadyExists,
}

impl Store {
    /// Opens the folder that `uri` names. Nothing is asked of the store yet, and a folder need not exist.
    pub fn open(uri: &str, credentials: &Credentials) -> Result<Self> {
        Self::at(&Location::parse(uri)?.into_folder(), credentials)
    }

    /// Opens the folder in which the object that `uri` names lies. Gives the object's name there too.
    pub fn open_object(uri: &str, credentials: &Credentials) -> Result<(Self, String)> {
        let location = Location::parse(uri)?;
        let Some((parent, name)) = location.split().filter(|_| !location.is_folder()) else {
            return Err(Error::invalid(
                format!("URI `{uri}`"),
                "names a folder, expected one object: drop the slash at its end",
            ));
        };
        Ok((Self::at(&parent, credentials)?, name))
    }

    /// Opens a parsed folder.
    pub fn at(location: &Location, credentials: &Credentials) -> Result<Self> {
        let (inner, base) = open::open(location, credentials)?;
        Ok(Self::over(inner, base, location, credentials))
    }

    /// A folder that `inner` reaches.
    fn over(
        inner: Arc<dyn ObjectStore>,
        base: Key,
        location: &Location,
        credentials: &Credentials,
    ) -> Self {
        Self {
            inner,
            location: location.clone().into_folder(),
            base,
            credentials: credentials.clone(),
            backoff: ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(300))
                .with_max_delay(Duration::from_secs(10))
                .with_max_times(4)
                .with_jitter(),
        }
    }

    /// The folder `prefix` below this one.
    pub fn child(&self, prefix: &str) -> Result<Self> {
        let uri = format!("{}{}/", self.uri(), prefix.trim_matches('/'));
        let location = Location::parse(&uri)?.into_folder();
        Ok(Self {
            base: self.key(prefix)?,
            location,
            ..self.clone()
        })
    }

    /// The folder's URI, ending in `/`.
    pub fn uri(&self) -> String {
        self.location.to_string()
    }

    /// The URI of `path` below the folder.
    pub fn uri_of(&self, path: &str) -> String {
        format!("{}{path}", self.uri())
    }

    /// Whose objects these are: the location, a URL's query included, and all settings that say which server answers for it,
    /// but no key. Two stores that agree in it have the same objects. For digests; it may hold a signature.
    pub(crate) fn source(&self) -> String {
        let address = match &self.location {
            Location::Https { url, .. } => url.to_string(),
            _ => self.uri(),
        };
        let prefix = match &self.location {
            Location::Bucket { provider, .. } => match provider {
                Provider::S3 => "AWS_",
                Provider::Google => "GOOGLE_",
                Provider::Azure => "AZURE_",
            },
            Location::Hub { .. } => "HF_",
            Location::File { .. } | Location::Claim { .. } | Location::Https { .. } => {
                return address;
            }
        };
        let server = open::server(&self.credentials, prefix);
        format!("{address} {server:?}")
    }

    /// Whether it is a repository of the Hub.
    pub(crate) const fn is_hub(&self) -> bool {
        matches!(self.location, Location::Hub { .. })
    }

    /// Whether it is the volume of a claim, or a folder of it.
    pub(crate) const fn is_claim(&self) -> bool {
        matches!(self.location, Location::Claim { .. })
    }

    /// The path of an object in the local file system, where the store is a folder of it.
    pub fn local_path(&self, path: &str) -> Option<PathBuf> {
        Some(claims::local_folder(&self.location)?.join(path))
    }

    /// The bytes of an object. For small ones: all of it is held in memory.
    pub async fn read(&self, path: &str) -> Result<Bytes> {
        let key = self.key(path)?;
        let read = || async {
            let result = self.inner.get(&key).await;
            let result = result.map_err(|error| self.classify(&error, path))?;
            let size = result.meta.size;
            let bytes = result.bytes().await;
            let bytes = bytes.map_err(|error| self.classify(&error, path))?;
            if bytes.len() as u64 == size {
                Ok(bytes)
            } else {
                Err(self.truncated(path, size, bytes.len() as u64))
            }
        };
        self.retry(read).await
    }

    /// The bytes of an object, or `None` where it does not exist. A missing bucket is an error.
    pub async fn read_optional(&self, path: &str) -> Result<Option<Bytes>> {
        match self.read(path).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::ObjectNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes an object, in place of any that is there.
    pub async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        let key = self.key(path)?;
        let write = || async {
            let result = self.inner.put(&key, bytes.clone().into()).await;
            result
                .map(drop)
                .map_err(|error| self.classify(&error, path))
        };
        self.retry(write).await
    }

    /// Writes an object unless one is there. One that is there with the same bytes counts as created: an answer that was
    /// lost on its way looks just like that.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<Creation> {
        let key = self.key(path)?;
        let create = || async {
            let options = PutOptions::from(PutMode::Create);
            match self
                .inner
                .put_opts(&key, bytes.clone().into(), options)
                .await
            {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
                Err(error) => Err(self.classify(&error, path)),
            }
        };
        if self.retry(create).await? || self.read(path).await? == bytes {
            Ok(Creation::Created)
        } else {
            Ok(Creation::AlreadyExists)
        }
    }

    /// All objects below `prefix` (empty: all of the store's), sorted by path. A folder that does not exist is empty; a
    /// bucket that does not exist is an error.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let key = self.key(prefix)?;
        let list = || async {
            let found: Vec<_> = self
                .inner
                .list(Some(&key))
                .try_collect()
                .await
                .map_err(|error| self.classify(&error, prefix))?;
            let mut entries: Vec<Entry> = found
                .into_iter()
                .filter_map(|meta| {
                    let path = meta.location.as_ref().strip_prefix(self.base.as_ref())?;
                    Some(Entry {
                        path: path.trim_start_matches('/').to_owned(),
                        size: meta.size,
                        etag: meta.e_tag,
                    })
                })
                .collect();
            entries.sort_by(|left, right| left.path.cmp(&right.path));
            Ok(entries)
        };
        self.retry(list).await
    }

    /// The entry of one object, without reading it.
    pub async fn entry(&self, path: &str) -> Result<Entry> {
        let key = self.key(path)?;
        let look = || async {
            // Not a HEAD: its answer has no body, so that a missing bucket and a missing object would look the same.
            let result = self.inner.get(&key).await;
            let meta = result.map_err(|error| self.classify(&error, path))?.meta;
            Ok(Entry {
                path: path.to_owned(),
                size: meta.size,
                etag: meta.e_tag,
            })
        };
        self.retry(look).await
    }

    /// What is said of an object that is not there: where things lie below its name, the slash is missing at the end of it.
    pub(crate) async fn absent(&self, path: &str) -> Error {
        let uri = self.uri_of(path);
        if let Some(path) = self.local_path(path) {
            return match absence::of_file(&path) {
                Some(problem) => Error::invalid(uri, problem),
                None => Error::ObjectNotFound { uri },
            };
        }
        let is_folder = match self.key(path) {
            // A server of single files has no listings.
            Ok(key) if !matches!(self.location, Location::Https { .. }) => {
                matches!(self.inner.list(Some(&key)).next().await, Some(Ok(_)))
            }
            _ => false,
        };
        if is_folder {
            return Error::invalid(
                uri,
                "is a folder, expected a file: end it in `/` to mean all files below it",
            );
        }
        Error::ObjectNotFound { uri }
    }

    /// What is said of a folder that holds no object that is read; `passed_over` others it does hold.
    pub(crate) fn without_objects(&self, passed_over: usize) -> Error {
        let uri = self.uri();
        let problem = match self.local_path("") {
            Some(folder) => absence::of_folder(&folder, passed_over),
            None => absence::of_files(passed_over),
        };
        match problem {
            Some(problem) => Error::invalid(uri, problem),
            None => Error::ObjectNotFound { uri },
        }
    }

    /// Deletes everything below `prefix`. Nothing there is no error.
    pub async fn delete_below(&self, prefix: &str) -> Result<()> {
        if let Some(folder) = self.local_path(prefix.trim_end_matches('/')) {
            return match tokio::fs::remove_dir_all(&folder).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::local("delete", &folder, error))
                }
                _ => Ok(()),
            };
        }
        let key = self.key(prefix)?;
        let delete = || async {
            let found = self.inner.list(Some(&key)).map_ok(|meta| meta.location);
            let deleted = self
                .inner
                .delete_stream(found.boxed())
                .map(|result| match result {
                    Err(object_store::Error::NotFound { .. }) | Ok(_) => Ok(()),
                    Err(error) => Err(self.classify(&error, prefix)),
                });
            deleted.try_collect::<()>().await
        };
        self.retry(delete).await
    }

    /// The key of a path below the prefix.
    fn key(&self, path: &str) -> Result<Key> {
        let full = format!("{}/{}", self.base, path.trim_matches('/'));
        Key::parse(full.trim_matches('/')).map_err(|error| {
            Error::invalid(
                format!("path `{path}` below {}", self.uri()),
                error.to_string(),
            )
        })
    }

    /// Tries again what may get better.
    async fn retry<T, F, Fut>(&self, operation: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        operation
            .retry(self.backoff)
            .when(Error::is_retryable)
            .notify(|error, delay| tracing::warn!(%error, ?delay, "trying again"))
            .await
    }

    fn truncated(&self, path: &str, expected: u64, found: u64) -> Error {
        Error::Unavailable {
            uri: self.uri_of(path),
            cause: format!("the answer ended after {found} of {expected} bytes"),
        }
    }
}

/// Makes a rename in `folder` survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| Error::local("sync", folder, source))
}

#[cfg(test)]
mod tests;
