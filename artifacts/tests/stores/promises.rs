//! What every store must keep, whoever's it is.

use std::path::{Path, PathBuf};

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::publish::{fetch, publish};
use finetune_artifacts::store::{Creation, Store};
use finetune_crds::contract::{OutcomeReason, Published};

use super::azure::Azure;
use super::contents::Contents;
use super::google::Google;

const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

pub(crate) fn adapter(folder: &Path) -> PathBuf {
    let adapter = folder.join("adapter");
    std::fs::create_dir_all(&adapter).unwrap();
    std::fs::write(adapter.join(FILES[0]), "{}").unwrap();
    // Three parts, the last one short.
    let weights: Vec<u8> = (0..20_000_003_u32)
        .map(|index| (index % 253) as u8)
        .collect();
    std::fs::write(adapter.join(FILES[1]), weights).unwrap();
    adapter
}

/// Writes, creates, lists, publishes, fetches and deletes below `root`, a folder's URI that ends in `/`.
pub(crate) async fn are_kept(root: &str, credentials: &Credentials) {
    let store = Store::open(root, credentials).unwrap();
    store.write("a b/ü%20.json", "one".into()).await.unwrap();
    store.write("a b/ü%20.json", "two".into()).await.unwrap();
    assert_eq!(store.read("a b/ü%20.json").await.unwrap(), "two");
    assert_eq!(store.read_optional("absent").await.unwrap(), None);

    creations_are_refused_where_something_is(&store).await;
    listings_and_deletions_end_at_the_folder(&store).await;
    a_folder_without_its_slash_is_called_one(root, credentials).await;

    let folder = tempfile::tempdir().unwrap();
    let local = adapter(folder.path());
    let published = publish(&store, "team-a/tone", &local).await.unwrap();
    assert!(
        published
            .uri
            .starts_with(&format!("{root}team-a/tone/sha256-")),
        "{}",
        published.uri
    );
    assert_eq!(
        publish(&store, "team-a/tone", &local).await.unwrap(),
        published
    );
    is_read_back(&published, &local, credentials).await;
}

/// Fetches a published version, and caches a part of it.
pub(crate) async fn is_read_back(published: &Published, local: &Path, credentials: &Credentials) {
    let folder = tempfile::tempdir().unwrap();
    let version = Store::open(&published.uri, credentials).unwrap();
    let dest = folder.path().join("back");
    fetch(&version, &published.digest, &dest, &FILES)
        .await
        .unwrap();
    for file in FILES {
        assert!(
            std::fs::read(dest.join(file)).unwrap() == std::fs::read(local.join(file)).unwrap()
        );
    }
    let cache = Cache::new(&folder.path().join("cache"));
    let cached = cache
        .directory(&published.uri, credentials, |path| path == FILES[0])
        .await
        .unwrap();
    assert_eq!(
        std::fs::read_to_string(cached.join(FILES[0])).unwrap(),
        "{}"
    );
    let file = cache
        .file(&format!("{}{}", published.uri, FILES[0]), credentials)
        .await
        .unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "{}");
}

async fn creations_are_refused_where_something_is(store: &Store) {
    let attempts = (0..8).map(|claimant| async move {
        let claim = format!("{claimant}");
        store.create("claim.json", claim.into()).await.unwrap()
    });
    let results = futures::future::join_all(attempts).await;
    let winners = results
        .iter()
        .filter(|result| **result == Creation::Created)
        .count();
    assert_eq!(winners, 1, "{results:?}");
    let winner = store.read("claim.json").await.unwrap();
    // An answer that was lost looks like this.
    assert_eq!(
        store.create("claim.json", winner.clone()).await.unwrap(),
        Creation::Created
    );
    assert_eq!(
        store.create("claim.json", "other".into()).await.unwrap(),
        Creation::AlreadyExists
    );
    assert_eq!(store.read("claim.json").await.unwrap(), winner);
}

/// The commonest slip in a URI: the slash at its end is missing.
async fn a_folder_without_its_slash_is_called_one(root: &str, credentials: &Credentials) {
    let store = Store::open(&format!("{root}slash/"), credentials).unwrap();
    store.write("train/deep/a", "x".into()).await.unwrap();
    store.write("train-extra/b", "x".into()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    for name in ["train", "train/deep"] {
        let uri = format!("{root}slash/{name}");
        let error = cache.file(&uri, credentials).await.unwrap_err();
        assert_eq!(error.reason(), OutcomeReason::InvalidInput, "{error}");
        let expected = format!("{uri}: is a folder, expected a file: end it in `/`");
        assert!(error.to_string().contains(&expected), "{error}");
    }
    for name in ["tra", "train-", "train/deep/b"] {
        let error = cache
            .file(&format!("{root}slash/{name}"), credentials)
            .await;
        let error = error.unwrap_err();
        assert_eq!(error.reason(), OutcomeReason::NotFound, "{error}");
    }
}

async fn listings_and_deletions_end_at_the_folder(store: &Store) {
    let names = ["1/a", "1/b", "1/sub/c", "1/sub/d", "10/keep"];
    let work = store.child("work").unwrap();
    for name in names {
        work.write(name, name.into()).await.unwrap();
    }
    let listed = |store: Store| async move {
        let entries = store.list("").await.unwrap();
        entries
            .into_iter()
            .map(|entry| (entry.path, entry.size))
            .collect::<Vec<_>>()
    };
    let expected = names.map(|name| (name.to_owned(), name.len() as u64));
    assert_eq!(listed(work.clone()).await, expected);
    work.delete_below("1/").await.unwrap();
    work.delete_below("1/").await.unwrap();
    assert_eq!(listed(work).await, expected[4..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn google_keeps_what_is_promised_of_every_store() {
    let google = Google::start().await;
    are_kept("gs://models/root/", &google.credentials()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_keeps_what_is_promised_of_every_store() {
    let azure = Azure::start().await;
    are_kept("az://models/root/", &azure.credentials()).await;
}

/// A server whose next two answers are a 503.
async fn survives_faults(uri: &str, contents: &Contents, credentials: &Credentials) {
    let store = Store::open(uri, credentials).unwrap();
    store.write("a", "hello".into()).await.unwrap();
    contents.lock().faults = 2;
    assert_eq!(store.read("a").await.unwrap(), "hello");
    contents.lock().faults = 2;
    assert_eq!(
        store.create("b", "new".into()).await.unwrap(),
        Creation::Created
    );
    assert_eq!(contents.lock().faults, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_busy_for_a_while_is_asked_again() {
    let google = Google::start().await;
    survives_faults("gs://models/a/", &google.contents, &google.credentials()).await;
    let azure = Azure::start().await;
    survives_faults("az://models/a/", &azure.contents, &azure.credentials()).await;
}
