//! Publishing a folder under its digest, and fetching it back with every byte checked.
//!
//! Files go first, the manifest last and only if none is there: a folder is complete or has no manifest. Nothing that
//! was published is ever written again.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use finetune_crds::contract::Published;
use finetune_crds::contract::layout::{MANIFEST, version_folder};

use crate::digest;
use crate::error::{Error, Result};
use crate::manifest::{MAX_MANIFEST, Manifest};
use crate::store::{Creation, Store, sync_folder};

/// A folder whose files lie in the store and whose manifest does not yet.
#[derive(Debug)]
#[must_use = "nothing is published before `commit`"]
pub struct Staged {
    store: Store,
    manifest: Manifest,
    published: Published,
}

/// Publishes all files of `local_folder` to `<version_parent>/sha256-<hex>/`. Doing it again changes nothing.
pub async fn publish(
    store: &Store,
    version_parent: &str,
    local_folder: &Path,
) -> Result<Published> {
    stage(store, version_parent, local_folder)
        .await?
        .commit()
        .await
}

/// The first half of [`publish`]: the files, without the manifest. Whoever must check something between the two (such as
/// whether a newer attempt has claimed the job) does it before [`Staged::commit`].
pub async fn stage(store: &Store, version_parent: &str, local_folder: &Path) -> Result<Staged> {
    let folder = local_folder.to_owned();
    let manifest = blocking(move || Manifest::of_folder(&folder)).await?;
    if manifest.files.is_empty() {
        return Err(Error::invalid(
            local_folder.display().to_string(),
            "holds no file, expected something to publish",
        ));
    }
    let digest = manifest.digest();
    let parent = version_parent.trim_matches('/');
    let store = store.child(&format!("{parent}/{}", version_folder(&digest)))?;
    let staged = Staged {
        published: Published {
            uri: store.uri(),
            digest,
        },
        store,
        manifest,
    };
    if staged.is_committed().await? {
        return Ok(staged);
    }
    for file in &staged.manifest.files {
        let source = local_folder.join(&file.path);
        let sent = staged.store.upload(&file.path, &source).await?;
        if sent != file.digest() {
            return Err(Error::invalid(
                source.display().to_string(),
                "changed while it was published; publish again once nothing writes to it",
            ));
        }
    }
    Ok(staged)
}

impl Staged {
    /// What [`Staged::commit`] will publish.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// The second half of [`publish`]: the manifest, if none is there.
    pub async fn commit(self) -> Result<Published> {
        let bytes = Bytes::from(self.manifest.to_bytes());
        match self.store.create(MANIFEST, bytes).await? {
            Creation::Created => Ok(self.published),
            Creation::AlreadyExists => Err(Error::invalid(
                self.store.uri_of(MANIFEST),
                "holds another manifest than its folder's name says; nothing was written over it, delete the folder",
            )),
        }
    }

    async fn is_committed(&self) -> Result<bool> {
        let stored = self.store.read_optional(MANIFEST).await?;
        Ok(stored.is_some_and(|bytes| digest::of_bytes(&bytes) == self.published.digest))
    }
}

/// The manifest of a published folder, compared with its pinned digest.
pub async fn fetch_manifest(store: &Store, digest: &str) -> Result<Manifest> {
    let bytes = manifest_bytes(store, digest).await?;
    Manifest::parse(&bytes, &store.uri_of(MANIFEST))
}

async fn manifest_bytes(store: &Store, digest: &str) -> Result<Bytes> {
    let uri = store.uri_of(MANIFEST);
    let size = store.entry(MANIFEST).await?.size;
    if size > MAX_MANIFEST {
        return Err(Error::invalid(
            uri,
            format!("has {size} bytes, expected at most {MAX_MANIFEST}"),
        ));
    }
    let bytes = store.read(MANIFEST).await?;
    let found = digest::of_bytes(&bytes);
    if found != digest {
        return Err(Error::DigestMismatch {
            uri,
            expected: digest.to_owned(),
            found,
        });
    }
    Ok(bytes)
}

/// Fetches a published folder to `dest`, which appears whole or not at all. `store` is the version's own folder; of its
/// files those in `allow` are fetched, and each must be in the manifest, which is kept beside them. A `dest` that is
/// there already is compared with the manifest, and fetched again where it differs.
pub async fn fetch(store: &Store, digest: &str, dest: &Path, allow: &[&str]) -> Result<Manifest> {
    let bytes = manifest_bytes(store, digest).await?;
    let manifest = Manifest::parse(&bytes, &store.uri_of(MANIFEST))?;
    for name in allow {
        if manifest.file(name).is_none() {
            return Err(Error::invalid(
                store.uri_of(MANIFEST),
                format!(
                    "does not list `{name}`, expected one of each of: {}",
                    allow.join(", ")
                ),
            ));
        }
    }
    if let Some(manifest) = fetched(digest, dest, allow).await {
        return Ok(manifest);
    }
    let parent = dest.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|source| Error::local("create", parent, source))?;
    let temporary = tempfile::Builder::new()
        .prefix(".fetch-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .map_err(|source| Error::local("create a folder in", parent, source))?;
    for name in allow {
        let Some(file) = manifest.file(name) else {
            continue;
        };
        let path = temporary.path().join(name);
        store
            .download_sized(
                name,
                &path,
                Some(&file.digest()),
                Some(file.size),
                &|_, _| {},
            )
            .await?;
    }
    let path = temporary.path().join(MANIFEST);
    std::fs::write(&path, &bytes).map_err(|source| Error::local("write", &path, source))?;
    if dest.exists() {
        std::fs::remove_dir_all(dest)
            .map_err(|source| Error::local("delete damaged", dest, source))?;
    }
    let temporary = temporary.keep();
    std::fs::rename(&temporary, dest)
        .map_err(|source| Error::local("rename a download to", dest, source))?;
    sync_folder(parent)?;
    Ok(manifest)
}

/// The manifest of what [`fetch`] has put at `dest`, if the files of `allow` are all there with its hashes, and nothing
/// else. Asks no store: a version that is here stays usable while its store is away.
pub async fn fetched(digest: &str, dest: &Path, allow: &[&str]) -> Option<Manifest> {
    let path = dest.join(MANIFEST);
    let is_small = |path: &Path| {
        std::fs::symlink_metadata(path).is_ok_and(|it| it.is_file() && it.len() <= MAX_MANIFEST)
    };
    let bytes = is_small(&path).then(|| std::fs::read(&path).ok())??;
    if digest::of_bytes(&bytes) != digest {
        return None;
    }
    let manifest = Manifest::parse(&bytes, &path.display().to_string()).ok()?;
    let is_whole = allow.iter().all(|name| manifest.file(name).is_some())
        && is_intact(&manifest, dest, allow).await;
    is_whole.then_some(manifest)
}

/// Whether `dest` holds the allowed files, with the manifest's hashes, and nothing else.
async fn is_intact(manifest: &Manifest, dest: &Path, allow: &[&str]) -> bool {
    let folder = dest.to_owned();
    let found = blocking(move || Manifest::of_folder(&folder)).await;
    let expected = manifest
        .files
        .iter()
        .filter(|file| allow.contains(&file.path.as_str()));
    found.is_ok_and(|found| found.files.iter().eq(expected))
}

/// Runs what blocks where it holds up no other task.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(Error::Unavailable {
                uri: "a task of this process".into(),
                cause: error.to_string(),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Credentials;

    const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

    struct Bench {
        folder: tempfile::TempDir,
        store: Store,
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let local = folder.path().join("local");
        std::fs::create_dir(&local).unwrap();
        std::fs::write(local.join(FILES[0]), "{}").unwrap();
        std::fs::write(local.join(FILES[1]), vec![3; 9 << 20]).unwrap();
        std::fs::write(local.join("README.md"), "card").unwrap();
        let uri = format!("file://{}/store", folder.path().display());
        let store = Store::open(&uri, &Credentials::default()).unwrap();
        Bench { folder, store }
    }

    impl Bench {
        async fn publish(&self) -> Result<Published> {
            publish(&self.store, "ns/name", &self.folder.path().join("local")).await
        }
    }

    fn open(published: &Published) -> Store {
        Store::open(&published.uri, &Credentials::default()).unwrap()
    }

    #[tokio::test]
    async fn what_was_published_comes_back_the_same_without_files_not_allowed() {
        let bench = bench();
        let published = bench.publish().await.unwrap();
        let dest = bench.folder.path().join("fetched/version");
        fetch(&open(&published), &published.digest, &dest, &FILES)
            .await
            .unwrap();
        assert_eq!(
            std::fs::read(dest.join(FILES[1])).unwrap(),
            vec![3; 9 << 20]
        );
        assert!(!dest.join("README.md").exists());
        let mode = std::fs::metadata(&dest).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        let left: Vec<_> = std::fs::read_dir(dest.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "temporary folders are left: {left:?}");
    }

    #[tokio::test]
    async fn publishing_again_gives_the_same_and_writes_nothing() {
        let bench = bench();
        let first = bench.publish().await.unwrap();
        let weights = open(&first).local_path(FILES[1]).unwrap();
        let written = std::fs::metadata(&weights).unwrap().modified().unwrap();
        let second = bench.publish().await.unwrap();
        assert_eq!(first, second);
        assert_eq!(
            std::fs::metadata(&weights).unwrap().modified().unwrap(),
            written
        );
    }

    #[tokio::test]
    async fn an_interrupted_publish_has_no_manifest_and_is_finished_by_the_next() {
        let bench = bench();
        let staged = stage(&bench.store, "ns/name", &bench.folder.path().join("local"))
            .await
            .unwrap();
        let digest = staged.published().digest.clone();
        let version = open(staged.published());
        assert!(matches!(
            fetch_manifest(&version, &digest).await,
            Err(Error::ObjectNotFound { .. })
        ));
        drop(staged);
        let published = bench.publish().await.unwrap();
        assert!(fetch_manifest(&version, &published.digest).await.is_ok());
    }

    #[tokio::test]
    async fn another_manifest_under_the_same_name_is_never_written_over() {
        let bench = bench();
        let published = bench.publish().await.unwrap();
        let path = open(&published).local_path(MANIFEST).unwrap();
        std::fs::write(&path, "{\"files\":[]}").unwrap();
        assert!(bench.publish().await.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"files\":[]}");
    }

    #[rstest::rstest]
    #[case::changed_byte(|path: &Path| std::fs::write(path, vec![4; 9 << 20]).unwrap())]
    #[case::truncated(|path: &Path| std::fs::write(path, vec![3; 8 << 20]).unwrap())]
    #[case::deleted(|path: &Path| std::fs::remove_file(path).unwrap())]
    #[tokio::test]
    async fn a_damaged_file_never_appears_in_the_destination(#[case] damage: fn(&Path)) {
        let bench = bench();
        let published = bench.publish().await.unwrap();
        let version = open(&published);
        damage(&version.local_path(FILES[1]).unwrap());
        let dest = bench.folder.path().join("fetched/version");
        let error = fetch(&version, &published.digest, &dest, &FILES)
            .await
            .unwrap_err();
        assert!(!error.is_retryable(), "{error}");
        assert!(error.to_string().contains(FILES[1]), "{error}");
        assert!(!dest.exists());
        assert_eq!(
            std::fs::read_dir(dest.parent().unwrap()).unwrap().count(),
            0
        );
    }

    #[tokio::test]
    async fn a_replaced_manifest_is_refused_by_the_pinned_digest() {
        let bench = bench();
        let published = bench.publish().await.unwrap();
        let other = digest::of_bytes(b"other");
        let error = fetch_manifest(&open(&published), &other).await.unwrap_err();
        assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_damaged_local_copy_is_fetched_again() {
        let bench = bench();
        let published = bench.publish().await.unwrap();
        let version = open(&published);
        let dest = bench.folder.path().join("version");
        fetch(&version, &published.digest, &dest, &FILES)
            .await
            .unwrap();
        std::fs::write(dest.join(FILES[0]), "[]").unwrap();
        fetch(&version, &published.digest, &dest, &FILES)
            .await
            .unwrap();
        assert_eq!(std::fs::read_to_string(dest.join(FILES[0])).unwrap(), "{}");
    }

    #[tokio::test]
    async fn what_was_fetched_is_known_again_without_its_store_unless_a_byte_differs() {
        let bench = bench();
        let published = bench.publish().await.unwrap();
        let dest = bench.folder.path().join("version");
        assert_eq!(fetched(&published.digest, &dest, &FILES).await, None);
        let manifest = fetch(&open(&published), &published.digest, &dest, &FILES)
            .await
            .unwrap();
        std::fs::remove_dir_all(bench.folder.path().join("store")).unwrap();
        assert_eq!(
            fetched(&published.digest, &dest, &FILES).await,
            Some(manifest)
        );
        assert_eq!(
            fetched(&published.digest, &dest, &["golden.json"]).await,
            None
        );
        let other = published.digest.replace(':', ":0");
        assert_eq!(fetched(&other, &dest, &FILES).await, None);
        std::fs::write(dest.join(FILES[0]), "[]").unwrap();
        assert_eq!(fetched(&published.digest, &dest, &FILES).await, None);
    }

    #[tokio::test]
    async fn a_file_that_the_manifest_lacks_is_named() {
        let bench = bench();
        let published = bench.publish().await.unwrap();
        let dest = bench.folder.path().join("version");
        let error = fetch(
            &open(&published),
            &published.digest,
            &dest,
            &["golden.json"],
        )
        .await
        .unwrap_err();
        assert!(error.to_string().contains("golden.json"), "{error}");
    }
}
