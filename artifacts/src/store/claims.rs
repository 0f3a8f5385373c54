//! The volumes of PersistentVolumeClaims: a folder each, below one that the operator names in the environment of its pods.
//!
//! Whoever can write to a volume can put links on it, and a pod has other things mounted, Secrets among them: nothing is
//! listed or read that a link leads to outside the volume.

use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use finetune_crds::names::CLAIMS_VARIABLE;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use crate::error::{Error, Result};
use crate::uri::Location;

type StoreResult<T> = std::result::Result<T, object_store::Error>;

/// What a new file system has at its root, for root alone to read.
const LOST_AND_FOUND: &str = "lost+found";

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

/// A link on a volume that leads out of it; its path there.
#[derive(Debug)]
pub(super) struct LeadsOut(pub(super) PathBuf);

impl fmt::Display for LeadsOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} leads out of the claim", self.0.display())
    }
}

impl std::error::Error for LeadsOut {}

/// Links that lead in a circle; the path where it closes.
#[derive(Debug)]
pub(super) struct Circle(pub(super) PathBuf);

impl fmt::Display for Circle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} leads to a folder that it is in",
            self.0.display()
        )
    }
}

impl std::error::Error for Circle {}

/// A reader of a volume. Its keys are absolute paths, as those of a [`LocalFileSystem`] without a prefix.
#[derive(Clone, Debug)]
pub(super) struct ClaimStore {
    volume: PathBuf,
}

impl ClaimStore {
    /// A reader of the volume that is mounted at this folder.
    pub(super) fn new(volume: PathBuf) -> Self {
        Self { volume }
    }

    /// That `path` lies on the volume once all links are followed. What does not exist leads nowhere.
    fn check(&self, path: &Path) -> StoreResult<()> {
        let whole = |path: &Path| path.canonicalize().map_err(|error| at(path, &error));
        if !path.exists() || whole(path)?.starts_with(whole(&self.volume)?) {
            return Ok(());
        }
        let below = path.strip_prefix(&self.volume).unwrap_or(path);
        Err(generic(LeadsOut(below.to_owned())))
    }

    fn listed(&self, prefix: Option<&Key>) -> StoreResult<Vec<ObjectMeta>> {
        let folder = match prefix {
            Some(prefix) => files().path_to_filesystem(prefix)?,
            None => self.volume.clone(),
        };
        let mut found = Vec::new();
        self.walk(&folder, &mut Vec::new(), &mut found)?;
        Ok(found)
    }

    /// All files below a folder. `above` are the folders on the way to it, links followed.
    fn walk(
        &self,
        folder: &Path,
        above: &mut Vec<PathBuf>,
        found: &mut Vec<ObjectMeta>,
    ) -> StoreResult<()> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(at(folder, &error)),
        };
        self.check(folder)?;
        let real = folder.canonicalize().map_err(|error| at(folder, &error))?;
        if above.contains(&real) {
            return Err(generic(Circle(folder.to_owned())));
        }
        above.push(real);
        for entry in entries {
            let path = entry.map_err(|error| at(folder, &error))?.path();
            if path == self.volume.join(LOST_AND_FOUND) {
                continue;
            }
            let metadata = match path.metadata() {
                Ok(metadata) => metadata,
                // A link to nothing, or a file that was deleted meanwhile.
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(at(&path, &error)),
            };
            if metadata.is_dir() {
                self.walk(&path, above, found)?;
            } else if metadata.is_file() {
                self.check(&path)?;
                let key = Key::from_absolute_path(&path)?;
                // What the client takes for an upload in progress, it does not read.
                if files().path_to_filesystem(&key).is_ok() {
                    found.push(meta(key, &metadata));
                }
            }
        }
        above.pop();
        Ok(())
    }
}

fn files() -> LocalFileSystem {
    LocalFileSystem::new()
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The etag changes with the file's number, time and size, as that of the client.
fn meta(location: Key, metadata: &std::fs::Metadata) -> ObjectMeta {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let since = modified.duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.unwrap_or_default().as_micros();
    let (number, size) = (metadata.ino(), metadata.len());
    ObjectMeta {
        location,
        last_modified: modified.into(),
        size,
        e_tag: Some(format!("\"{number:x}-{micros:x}-{size:x}\"")),
        version: None,
    }
}

fn at(path: &Path, error: &std::io::Error) -> object_store::Error {
    let said = format!("{}: {error}", path.display());
    generic(std::io::Error::new(error.kind(), said))
}

fn generic(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic {
        store: "claim",
        source: Box::new(error),
    }
}

fn read_only(what: &str) -> object_store::Error {
    object_store::Error::NotSupported {
        source: format!("{what} is not possible on pvc://, which is for reading").into(),
    }
}

impl fmt::Display for ClaimStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "claim at {}", self.volume.display())
    }
}

#[async_trait]
impl ObjectStore for ClaimStore {
    async fn get_opts(&self, location: &Key, options: GetOptions) -> StoreResult<GetResult> {
        let files = files();
        self.check(&files.path_to_filesystem(location)?)?;
        files.get_opts(location, options).await
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = move || store.listed(prefix.as_ref());
        stream::once(async { tokio::task::spawn_blocking(listed).await? })
            .map_ok(|found| stream::iter(found.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Key>) -> StoreResult<ListResult> {
        Err(read_only("listing one level"))
    }

    async fn put_opts(&self, _: &Key, _: PutPayload, _: PutOptions) -> StoreResult<PutResult> {
        Err(read_only("writing"))
    }

    async fn put_multipart_opts(
        &self,
        _: &Key,
        _: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        Err(read_only("writing"))
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, StoreResult<Key>>,
    ) -> BoxStream<'static, StoreResult<Key>> {
        stream::once(async { Err(read_only("deleting")) }).boxed()
    }

    async fn copy_opts(&self, _: &Key, _: &Key, _: CopyOptions) -> StoreResult<()> {
        Err(read_only("copying"))
    }
}
