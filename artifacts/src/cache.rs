//! Downloads kept between runs, by URI, by the server that is asked, and by what it says of the content. Files of this
//! machine are used where they lie.
//!
//! Several processes may share a cache: each entry is made under a lock, in a folder of its own, and renamed when it is
//! whole. A file that is in the cache is never written again.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::credentials::Credentials;
use crate::digest;
use crate::error::{Error, Result};
use crate::publish::blocking;
use crate::store::{Entry, Store, sync_folder};

/// What only this process calls itself; in containers, process numbers are all alike.
static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());

/// A folder of downloads.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// What the store says of some objects, as a digest over their paths, sizes and entity tags. It changes when one of them
/// does, but it is not a digest of their content.
pub fn identity(entries: &[Entry]) -> String {
    let mut lines: Vec<_> = entries
        .iter()
        .map(|entry| {
            let etag = entry.etag.as_deref().unwrap_or("");
            format!("{:?} {} {etag:?}\n", entry.path, entry.size)
        })
        .collect();
    lines.sort();
    digest::of_bytes(lines.concat().as_bytes())
}

impl Cache {
    /// A cache in `folder`, which is made when it is first needed.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// A local copy of one object, with its own name.
    pub async fn file(&self, uri: &str, credentials: &Credentials) -> Result<PathBuf> {
        let (store, name) = Store::open_object(uri, credentials)?;
        self.object(&store, &name).await
    }

    /// A local copy of the object `name` of a store, with its own name.
    pub async fn object(&self, store: &Store, name: &str) -> Result<PathBuf> {
        if let Some(path) = store.local_path(name) {
            if !path.is_file() {
                return Err(store.absent(name).await);
            }
            if store.is_claim() {
                // Refuses a link that leads out of it.
                store.entry(name).await?;
            }
            return Ok(path);
        }
        let entry = match entry_of(store, name).await {
            Err(Error::ObjectNotFound { .. }) => return Err(store.absent(name).await),
            entry => entry?,
        };
        let entries = [entry];
        let folder = self.fill(store, &entries).await?;
        Ok(folder.join(name))
    }

    /// A local copy of the objects below a folder whose paths pass `filter`. None is an error.
    pub async fn directory(
        &self,
        uri: &str,
        credentials: &Credentials,
        filter: impl Fn(&str) -> bool,
    ) -> Result<PathBuf> {
        let store = Store::open(uri, credentials)?;
        let mut entries = store.list("").await?;
        let listed = entries.len();
        entries.retain(|entry| filter(&entry.path));
        if entries.is_empty() {
            return Err(store.without_objects(listed));
        }
        if let Some(folder) = store.local_path("") {
            return Ok(folder);
        }
        self.fill(&store, &entries).await
    }

    /// Makes the entry of these objects, or finds it.
    async fn fill(&self, store: &Store, entries: &[Entry]) -> Result<PathBuf> {
        let key = key_of(store, entries);
        let ready = self.folder.join(&key);
        if ready.is_dir() {
            return Ok(ready);
        }
        std::fs::create_dir_all(&self.folder)
            .map_err(|source| Error::local("create the cache", &self.folder, source))?;
        let _lock = lock(self.folder.join(format!("{key}.lock"))).await?;
        // Whoever held the lock may have finished meanwhile.
        if ready.is_dir() {
            return Ok(ready);
        }
        // What an interrupted run left whole stays; `download` shows no half file.
        let partial = self.folder.join(format!("{key}.partial"));
        for entry in entries {
            let dest = partial.join(&entry.path);
            if std::fs::metadata(&dest).is_ok_and(|found| found.len() == entry.size) {
                continue;
            }
            tracing::info!(
                uri = store.uri_of(&entry.path),
                bytes = entry.size,
                "downloading"
            );
            let expected = entry
                .etag
                .as_deref()
                .filter(|etag| store.is_hub() && digest::is_digest(etag));
            store
                .download_sized(&entry.path, &dest, expected, Some(entry.size), &|_, _| {})
                .await?;
        }
        std::fs::rename(&partial, &ready)
            .map_err(|source| Error::local("rename a download to", &ready, source))?;
        sync_folder(&self.folder)?;
        Ok(ready)
    }
}

/// The name of the entry of these objects. Of what a server gives no version, nothing is found again by another process.
fn key_of(store: &Store, entries: &[Entry]) -> String {
    let unversioned = entries.iter().any(|entry| entry.etag.is_none());
    let process = unversioned.then_some(*PROCESS);
    let text = format!("{}\n{}\n{process:?}", store.source(), identity(entries));
    digest::of_bytes(text.as_bytes()).replacen(':', "-", 1)
}

/// What the store says of one object. The Hub says a hash of its content in a listing only, and the revision, which may be a
/// branch, where the file itself is asked for.
async fn entry_of(store: &Store, name: &str) -> Result<Entry> {
    if store.is_hub() {
        match store.list("").await {
            Ok(listed) => {
                if let Some(entry) = listed.into_iter().find(|entry| entry.path == name) {
                    return Ok(entry);
                }
            }
            // A mirror may have files and no listings.
            Err(Error::ObjectNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    store.entry(name).await
}

/// Waits for a lock between processes; closing the file frees it.
async fn lock(path: PathBuf) -> Result<File> {
    blocking(move || {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| Error::local("open", &path, source))
            .and_then(|file| match file.lock() {
                Ok(()) => Ok(file),
                Err(source) => Err(not_locked(&path, source)),
            })
    })
    .await
}

/// Without locks, two processes would write to one folder.
fn not_locked(path: &Path, source: std::io::Error) -> Error {
    /// `ENOLCK`, which the standard library gives no kind.
    const NO_LOCKS: i32 = 37;
    if source.kind() == ErrorKind::Unsupported || source.raw_os_error() == Some(NO_LOCKS) {
        return Error::invalid(
            format!("the cache {}", path.parent().unwrap_or(path).display()),
            format!(
                "lies on a file system without locks ({source}): keep downloads on one that has them, such as NFS 4 or a local \
                 disk"
            ),
        );
    }
    Error::local("lock", path, source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use finetune_crds::contract::OutcomeReason;
    use object_store::memory::InMemory;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;

    fn entry(path: &str, etag: &str) -> Entry {
        Entry {
            path: path.to_owned(),
            size: 1,
            etag: Some(etag.to_owned()),
        }
    }

    #[test]
    fn an_identity_changes_with_content_and_not_with_order() {
        let one = identity(&[entry("a", "1"), entry("b", "2")]);
        assert_eq!(one, identity(&[entry("b", "2"), entry("a", "1")]));
        assert_ne!(one, identity(&[entry("a", "1"), entry("b", "3")]));
        assert_ne!(one, identity(&[entry("a", "1")]));
    }

    #[tokio::test]
    async fn a_local_file_is_used_where_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, "{}").unwrap();
        let cache = Cache::new(&folder.path().join("cache"));
        let uri = format!("file://{}", path.display());
        let credentials = Credentials::default();
        assert_eq!(cache.file(&uri, &credentials).await.unwrap(), path);
        assert!(!folder.path().join("cache").exists());
        assert!(
            cache
                .file(&format!("{uri}.absent"), &credentials)
                .await
                .is_err()
        );
    }

    /// What is said of a place of this machine, which ends in `/` where it is a folder.
    async fn refusal(place: &str) -> (OutcomeReason, String) {
        let cache = Cache::new(Path::new("/nonexistent"));
        let uri = format!("file://{place}");
        let credentials = Credentials::default();
        let found = if place.ends_with('/') {
            let data = |path: &str| !path.starts_with('_');
            cache.directory(&uri, &credentials, data).await
        } else {
            cache.file(&uri, &credentials).await
        };
        let error = found.unwrap_err();
        (error.reason(), error.to_string())
    }

    #[tokio::test]
    async fn what_is_there_and_is_no_file_is_called_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["empty", "marks", "links", "circle", "itself"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        std::fs::write(root.join("marks/_SUCCESS"), "").unwrap();
        std::fs::write(root.join("rows.jsonl"), "").unwrap();
        symlink("/nonexistent/rows", root.join("links/a.jsonl")).unwrap();
        symlink(root.join("circle"), root.join("circle/again")).unwrap();
        symlink("itself.jsonl", root.join("itself.jsonl")).unwrap();
        symlink("a.jsonl", root.join("itself/a.jsonl")).unwrap();
        let _socket = UnixListener::bind(root.join("socket.jsonl")).unwrap();
        for (name, expected) in [
            ("socket.jsonl", "is a socket, which is no regular file"),
            (
                "links/a.jsonl",
                "is a link to /nonexistent/rows, where nothing is",
            ),
            ("itself.jsonl", "is a link to itself.jsonl"),
            ("empty", "is a folder, expected a file"),
            ("empty/", "the folder holds no file"),
            ("marks/", "of its 1 files none is one that is read here"),
            ("links/", "`a.jsonl` is a link to nothing"),
            ("rows.jsonl/", "is no folder, expected one: drop the slash"),
            ("circle/", "its links lead in a circle"),
            ("itself/", "its links lead in a circle"),
        ] {
            let (reason, message) = refusal(&format!("{}/{name}", root.display())).await;
            assert_eq!(reason, OutcomeReason::InvalidInput, "{message}");
            assert!(message.contains(expected), "{message}");
        }
        let (_, message) = refusal("/dev/zero").await;
        assert!(message.contains("is a device"), "{message}");
        let (reason, message) = refusal(&format!("{}/absent/", root.display())).await;
        assert_eq!(reason, OutcomeReason::NotFound, "{message}");
        assert!(message.contains("does not exist"), "{message}");
    }

    #[tokio::test]
    async fn a_file_whose_name_no_store_has_is_named_and_to_be_renamed() {
        for name in [&b"a\nb.jsonl"[..], b"\xff.jsonl"] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(OsStr::from_bytes(name)), "").unwrap();
            let (reason, message) = refusal(&format!("{}/", folder.path().display())).await;
            assert_eq!(reason, OutcomeReason::InvalidInput, "{message}");
            for expected in ["a file below it is called `/", ".jsonl`", "rename it"] {
                assert!(message.contains(expected), "{message}");
            }
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[tokio::test]
    async fn processes_that_want_the_same_share_one_download_and_a_change_makes_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let store = Store::for_test(Arc::new(InMemory::new()), "s3://models/base/");
        store.write("config.json", "{}".into()).await.unwrap();
        store.write("sub/weights", "old".into()).await.unwrap();
        let entries = store.list("").await.unwrap();
        let (one, two) = tokio::join!(cache.fill(&store, &entries), cache.fill(&store, &entries));
        let one = one.unwrap();
        assert_eq!(one, two.unwrap());
        assert_eq!(
            std::fs::read_to_string(one.join("sub/weights")).unwrap(),
            "old"
        );

        store.write("sub/weights", "new".into()).await.unwrap();
        let entries = store.list("").await.unwrap();
        let changed = cache.fill(&store, &entries).await.unwrap();
        assert_ne!(one, changed);
        assert_eq!(
            std::fs::read_to_string(changed.join("sub/weights")).unwrap(),
            "new"
        );
        assert_eq!(
            std::fs::read_to_string(one.join("sub/weights")).unwrap(),
            "old"
        );
    }

    #[test]
    fn a_file_system_without_locks_is_named_with_the_cure() {
        for code in [37, 95] {
            let source = std::io::Error::from_raw_os_error(code);
            let error = not_locked(Path::new("/cache/a.lock"), source).to_string();
            assert!(
                error.contains("the cache /cache") && error.contains("NFS 4"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn an_entry_that_is_there_needs_no_store() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path());
        let store = Store::for_test(Arc::new(InMemory::new()), "s3://models/base/");
        store.write("a", "1".into()).await.unwrap();
        let entries = store.list("").await.unwrap();
        let first = cache.fill(&store, &entries).await.unwrap();
        store.delete_below("").await.unwrap();
        assert_eq!(cache.fill(&store, &entries).await.unwrap(), first);
    }
}
