//! A real S3 server (versitygw), whose path `FINETUNE_S3_GATEWAY` gives: `make test` builds it and sets the variable.
//!
//! What a simulated server cannot show: that conditional writes, wrong keys and missing buckets behave as this crate
//! believes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a panic is the report"
)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::{Credentials, Usage};
use finetune_artifacts::publish::{fetch, publish};
use finetune_artifacts::store::{Creation, Store};
use finetune_crds::contract::OutcomeReason;

/// A server with one bucket, `models`; it ends with the value.
struct Gateway {
    process: Child,
    folder: tempfile::TempDir,
    endpoint: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Gateway {
    /// Starts the server. `None`, said aloud, where there is none to start.
    async fn start() -> Option<Self> {
        let Some(program) = std::env::var_os("FINETUNE_S3_GATEWAY").map(PathBuf::from) else {
            eprintln!("skipped: FINETUNE_S3_GATEWAY is not set; run `make test-unit`");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("models")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let process = Command::new(&program)
            .args(["--port", &address, "--access", "me", "--secret", "right"])
            .args(["--quiet", "posix"])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {}: {error}", program.display()));
        let gateway = Self {
            process,
            folder,
            endpoint: format!("http://{address}"),
        };
        for _ in 0..100 {
            if tokio::net::TcpStream::connect(&address).await.is_ok() {
                return Some(gateway);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} does not listen on {address}", program.display());
    }

    /// Credentials as a pod has them: a mounted Secret.
    fn secret(&self, secret_key: &str) -> Credentials {
        let root = self.folder.path().join(format!("credentials-{secret_key}"));
        let mount = root.join(Usage::Output.folder());
        std::fs::create_dir_all(&mount).unwrap();
        let write = |name: &str, value: &str| std::fs::write(mount.join(name), value).unwrap();
        write("AWS_ACCESS_KEY_ID", "me");
        write("AWS_SECRET_ACCESS_KEY", secret_key);
        write("AWS_ENDPOINT_URL", &self.endpoint);
        write("AWS_ALLOW_HTTP", "true");
        Credentials::resolve(Some(&root), Usage::Output, Some("models-s3"), []).unwrap()
    }

    fn open(&self, uri: &str) -> Store {
        Store::open(uri, &self.secret("right")).unwrap()
    }
}

fn adapter(folder: &Path) -> PathBuf {
    let adapter = folder.join("adapter");
    std::fs::create_dir_all(&adapter).unwrap();
    std::fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    // Three parts, the last one short.
    let weights: Vec<u8> = (0..20_000_003_u32)
        .map(|index| (index % 253) as u8)
        .collect();
    std::fs::write(adapter.join("adapter_model.safetensors"), weights).unwrap();
    adapter
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_is_published_in_parts_and_comes_back_the_same() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let store = gateway.open("s3://models/adapters/");
    let local = adapter(gateway.folder.path());
    let published = publish(&store, "team-a/tone", &local).await.unwrap();
    assert!(
        published
            .uri
            .starts_with("s3://models/adapters/team-a/tone/sha256-")
    );
    assert_eq!(
        publish(&store, "team-a/tone", &local).await.unwrap(),
        published
    );

    let dest = gateway.folder.path().join("fetched");
    let version = gateway.open(&published.uri);
    let files = ["adapter_config.json", "adapter_model.safetensors"];
    fetch(&version, &published.digest, &dest, &files)
        .await
        .unwrap();
    for name in files {
        assert!(
            std::fs::read(dest.join(name)).unwrap() == std::fs::read(local.join(name)).unwrap(),
            "{name} differs"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_create_one_object_at_once_one_wins() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let store = gateway.open("s3://models/jobs/");
    let attempts = (0..8).map(|claimant| {
        let store = store.clone();
        async move {
            store
                .create("claim.json", format!("{claimant}").into())
                .await
                .unwrap()
        }
    });
    let results = futures::future::join_all(attempts).await;
    let winners = results
        .iter()
        .filter(|result| **result == Creation::Created)
        .count();
    assert_eq!(winners, 1, "{results:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_a_missing_bucket_and_a_missing_object_are_told_apart() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let wrong = Store::open("s3://models/a/", &gateway.secret("wrong")).unwrap();
    for error in [
        wrong.read("b").await.unwrap_err(),
        wrong.list("").await.unwrap_err(),
        wrong.write("b", "x".into()).await.unwrap_err(),
        wrong.create("b", "x".into()).await.unwrap_err(),
    ] {
        assert_eq!(error.reason(), OutcomeReason::Credentials, "{error}");
        assert!(error.to_string().contains("Secret `models-s3`"), "{error}");
    }
    let absent = gateway.open("s3://absent/a/");
    for error in [
        absent.read("b").await.unwrap_err(),
        absent.list("").await.unwrap_err(),
        absent.write("b", "x".into()).await.unwrap_err(),
    ] {
        assert_eq!(error.reason(), OutcomeReason::NotFound, "{error}");
        assert!(error.to_string().contains("bucket `absent`"), "{error}");
    }
    let store = gateway.open("s3://models/a/");
    let error = store.read("b").await.unwrap_err();
    assert!(
        error.to_string().contains("s3://models/a/b does not exist"),
        "{error}"
    );
    assert_eq!(store.list("").await.unwrap(), vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_listed_and_deleted_without_its_neighbours() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let store = gateway.open("s3://models/.finetune/work/");
    for path in [
        "uid-1/prepared/data",
        "uid-1/attempts/000001/claim.json",
        "uid-10/keep",
    ] {
        store.write(path, "x".into()).await.unwrap();
    }
    store.delete_below("uid-1/").await.unwrap();
    let left: Vec<_> = store
        .list("")
        .await
        .unwrap()
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    assert_eq!(left, ["uid-10/keep"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_its_slash_is_called_one() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let store = gateway.open("s3://models/data/");
    store.write("train/a.jsonl", "{}".into()).await.unwrap();
    let cache = Cache::new(&gateway.folder.path().join("cache"));
    let credentials = gateway.secret("right");
    let asked = |uri: &'static str| cache.file(uri, &credentials);
    let error = asked("s3://models/data/train").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("s3://models/data/train: is a folder, expected a file: end it in `/`"),
        "{error}"
    );
    let error = asked("s3://models/data/tra").await.unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_keeps_a_base_until_the_store_holds_another() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let store = gateway.open("s3://models/base/");
    store.write("config.json", "{}".into()).await.unwrap();
    store
        .write("model.safetensors", "old".into())
        .await
        .unwrap();
    let cache = Cache::new(&gateway.folder.path().join("cache"));
    let credentials = gateway.secret("right");
    let all = |_: &str| true;
    let first = cache
        .directory("s3://models/base/", &credentials, all)
        .await
        .unwrap();
    assert_eq!(
        cache
            .directory("s3://models/base", &credentials, all)
            .await
            .unwrap(),
        first
    );
    let file = cache
        .file("s3://models/base/config.json", &credentials)
        .await
        .unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "{}");

    store
        .write("model.safetensors", "new".into())
        .await
        .unwrap();
    let second = cache
        .directory("s3://models/base/", &credentials, all)
        .await
        .unwrap();
    assert_ne!(first, second);
    assert_eq!(
        std::fs::read_to_string(second.join("model.safetensors")).unwrap(),
        "new"
    );
}
