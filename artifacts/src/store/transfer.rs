//! Large objects: streamed in both directions, hashed on the way, continued where a connection broke.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use backon::BackoffBuilder;
use futures::StreamExt;
use object_store::path::Path as Key;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::error::{Error, Result};

use super::{Store, sync_folder};

/// Parts of an upload, and the greatest size that goes in one request.
const PART: u64 = 8 << 20;
/// S3 takes 10 000 parts at most.
const MAX_PARTS: u64 = 9_000;
/// Parts on their way at one time.
const CONCURRENT_PARTS: usize = 4;

/// What a download brought.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Downloaded {
    /// The digest of the bytes: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// How many they are.
    pub size: u64,
}

/// A download in progress.
struct Incoming {
    file: tokio::fs::File,
    hasher: Sha256,
    received: u64,
    size: u64,
    etag: Option<String>,
}

impl Store {
    /// Downloads an object to `dest`, which appears whole or not at all, readable by all users. `expected_sha256`
    /// (`sha256:<hex>`) is compared before `dest` appears. `progress` hears of bytes received and bytes in all.
    pub async fn download(
        &self,
        path: &str,
        dest: &Path,
        expected_sha256: Option<&str>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Downloaded> {
        self.download_sized(path, dest, expected_sha256, None, progress)
            .await
    }

    /// As [`Store::download`]; an object of another size than expected is refused before its bytes are read.
    pub(crate) async fn download_sized(
        &self,
        path: &str,
        dest: &Path,
        expected_sha256: Option<&str>,
        expected_size: Option<u64>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Downloaded> {
        let key = self.key(path)?;
        let folder = dest.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|source| Error::local("create", folder, source))?;
        let temporary = tempfile::Builder::new()
            .prefix(".download-")
            // The engine that reads it may run as another user.
            .permissions(std::fs::Permissions::from_mode(0o644))
            .tempfile_in(folder)
            .map_err(|source| Error::local("create a file in", folder, source))?;
        let file = temporary
            .reopen()
            .map_err(|source| Error::local("open", temporary.path(), source))?;
        let mut incoming = Incoming {
            file: tokio::fs::File::from_std(file),
            hasher: Sha256::new(),
            received: 0,
            size: 0,
            etag: None,
        };
        let mut delays = self.backoff.build();
        loop {
            let before = incoming.received;
            let result = self
                .receive(&key, path, dest, &mut incoming, expected_size, progress)
                .await;
            let Err(error) = result else { break };
            // As long as bytes come, a long download may break as often as it likes.
            if incoming.received > before {
                delays = self.backoff.build();
            }
            let delay = delays.next().filter(|_| error.is_retryable());
            let Some(delay) = delay else {
                return Err(error);
            };
            tracing::warn!(%error, received = incoming.received, ?delay, "continuing the download");
            tokio::time::sleep(delay).await;
        }
        let digest = format!("sha256:{}", hex::encode(incoming.hasher.finalize()));
        if let Some(expected) = expected_sha256.filter(|expected| *expected != digest) {
            return Err(Error::DigestMismatch {
                uri: self.uri_of(path),
                expected: expected.to_owned(),
                found: digest,
            });
        }
        let sync = incoming.file.sync_all().await;
        sync.map_err(|source| Error::local("sync", dest, source))?;
        temporary
            .persist(dest)
            .map_err(|error| Error::local("rename a download to", dest, error.error))?;
        sync_folder(folder)?;
        Ok(Downloaded {
            digest,
            size: incoming.received,
        })
    }

    /// Receives what is still missing. After an error, calling it again continues.
    async fn receive(
        &self,
        key: &Key,
        path: &str,
        dest: &Path,
        incoming: &mut Incoming,
        expected_size: Option<u64>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<()> {
        let local = |source| Error::local("write", dest, source);
        if incoming.etag.is_none() && incoming.received > 0 {
            incoming.restart().await.map_err(local)?;
        }
        let options = match &incoming.etag {
            Some(etag) if incoming.received > 0 => GetOptions::new()
                .with_range(Some(incoming.received..incoming.size))
                .with_if_match(Some(etag)),
            _ => GetOptions::new(),
        };
        let result = match self.inner.get_opts(key, options).await {
            Ok(result) => result,
            Err(error) => {
                if matches!(error, object_store::Error::Precondition { .. }) {
                    incoming.restart().await.map_err(local)?;
                }
                return Err(self.classify(&error, path));
            }
        };
        incoming.size = result.meta.size;
        incoming.etag.clone_from(&result.meta.e_tag);
        if let Some(expected) = expected_size.filter(|expected| *expected != incoming.size) {
            return Err(Error::invalid(
                self.uri_of(path),
                format!(
                    "has {} bytes, its manifest says {expected}: it was changed after it was published; publish it again",
                    incoming.size
                ),
            ));
        }
        let mut stream = result.into_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| self.classify(&error, path))?;
            incoming.hasher.update(&chunk);
            incoming.file.write_all(&chunk).await.map_err(local)?;
            incoming.received += chunk.len() as u64;
            progress(incoming.received, incoming.size);
        }
        incoming.file.flush().await.map_err(local)?;
        if incoming.received == incoming.size {
            Ok(())
        } else {
            Err(self.truncated(path, incoming.size, incoming.received))
        }
    }

    /// Uploads a file, in parts where it is large, in place of any object that is there. Gives the digest of the bytes
    /// that were sent, which differ from earlier ones if someone has changed the file.
    pub async fn upload(&self, path: &str, source: &Path) -> Result<String> {
        let key = self.key(path)?;
        self.retry(|| self.send(&key, path, source)).await
    }

    async fn send(&self, key: &Key, path: &str, source: &Path) -> Result<String> {
        let local = |error| Error::local("read", source, error);
        let mut file = tokio::fs::File::open(source).await.map_err(local)?;
        let size = file.metadata().await.map_err(local)?.len();
        if size <= PART {
            let mut bytes = Vec::with_capacity(size as usize);
            file.read_to_end(&mut bytes).await.map_err(local)?;
            let digest = crate::digest::of_bytes(&bytes);
            let put = self.inner.put(key, bytes.into()).await;
            return put
                .map(|_| digest)
                .map_err(|error| self.classify(&error, path));
        }
        let part = PART.max(size.div_ceil(MAX_PARTS)) as usize;
        let upload = self.inner.put_multipart(key).await;
        let upload = upload.map_err(|error| self.classify(&error, path))?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, part);
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer).await;
            let ready = writer.wait_for_capacity(CONCURRENT_PARTS).await;
            let count = match (read, ready) {
                (Ok(0), Ok(())) => break,
                (Ok(count), Ok(())) => count,
                (Err(error), _) => return Err(abort(writer, local(error)).await),
                (_, Err(error)) => {
                    let error = self.classify(&error, path);
                    return Err(abort(writer, error).await);
                }
            };
            hasher.update(&buffer[..count]);
            writer.write(&buffer[..count]);
        }
        let finished = writer.finish().await;
        finished.map_err(|error| self.classify(&error, path))?;
        Ok(format!("sha256:{}", hex::encode(hasher.finalize())))
    }
}

impl Incoming {
    /// Forgets what came so far: the object has changed.
    async fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0).await?;
        self.file.rewind().await?;
        self.hasher = Sha256::new();
        self.received = 0;
        self.etag = None;
        Ok(())
    }
}

/// Drops the parts that have arrived, which the store would keep and charge for. The first error is what matters.
async fn abort(writer: WriteMultipart, cause: Error) -> Error {
    if let Err(error) = writer.abort().await {
        tracing::warn!(%error, "failed to abort an upload; its parts stay until the bucket's lifecycle removes them");
    }
    cause
}
