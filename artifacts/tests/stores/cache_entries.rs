//! When two downloads are one entry of the cache: the same server, the same URL and the same content.

use std::path::Path;

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::digest;
use finetune_artifacts::store::Store;
use rstest::rstest;
use serde_json::{Value, json};
use wiremock::matchers::{method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::azure::Azure;
use super::google::Google;
use super::process::{fetched, file_at};

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[rstest]
#[case("gs://models/base/")]
#[case("az://models/base/")]
#[tokio::test]
async fn what_one_server_says_is_not_found_by_a_job_that_asks_another(#[case] uri: &str) {
    let google = (Google::start().await, Google::start().await);
    let azure = (Azure::start().await, Azure::start().await);
    let (good, bad) = if uri.starts_with("gs") {
        (google.0.credentials(), google.1.credentials())
    } else {
        (azure.0.credentials(), azure.1.credentials())
    };
    // Path, size and version are the same.
    for (credentials, content) in [(&good, "good"), (&bad, "evil")] {
        let store = Store::open(uri, credentials).unwrap();
        store.write("weights", content.into()).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    let file = format!("{uri}weights");
    let poisoned = cache.directory(uri, &bad, |_| true).await.unwrap();
    assert_eq!(text(poisoned.join("weights")), "evil");
    cache.file(&file, &bad).await.unwrap();
    let whole = cache.directory(uri, &good, |_| true).await.unwrap();
    assert_eq!(text(whole.join("weights")), "good");
    assert_eq!(text(cache.file(&file, &good).await.unwrap()), "good");
    let again = cache.directory(uri, &good, |_| true).await.unwrap();
    assert_eq!(again, whole);
}

const COMMIT: &str = "1111111111111111111111111111111111111111";

/// A hub with one file at one revision.
async fn hub(server: &MockServer, revision: &str, listed: Value, content: &str) {
    server.reset().await;
    Mock::given(method("GET"))
        .and(path(format!("/api/datasets/org/rows/tree/{revision}")))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!([listed])))
        .mount(server)
        .await;
    Mock::given(method("GET"))
        .and(path(format!(
            "/datasets/org/rows/resolve/{revision}/a.jsonl"
        )))
        .respond_with(ResponseTemplate::new(200).set_body_string(content))
        .mount(server)
        .await;
}

fn of_hub(server: &MockServer) -> Credentials {
    Credentials::from_values([("HF_ENDPOINT".to_owned(), server.uri())])
}

#[tokio::test]
async fn a_large_file_of_the_hub_must_have_the_hash_that_the_hub_lists() {
    let server = MockServer::start().await;
    let credentials = of_hub(&server);
    let oid = digest::of_bytes(b"right").replace("sha256:", "");
    let listed = json!({ "type": "file", "path": "a.jsonl", "size": 130, "oid": "pointer",
        "lfs": { "oid": oid, "size": 5, "pointerSize": 130 } });
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    let uri = format!("hf://datasets/org/rows@{COMMIT}/");
    let file = format!("{uri}a.jsonl");
    hub(&server, COMMIT, listed.clone(), "wrong").await;
    for error in [
        cache.directory(&uri, &credentials, |_| true).await,
        cache.file(&file, &credentials).await,
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("expected sha256:"), "{error}");
    }
    hub(&server, COMMIT, listed, "right").await;
    let whole = cache.directory(&uri, &credentials, |_| true).await.unwrap();
    assert_eq!(text(whole.join("a.jsonl")), "right");
    assert_eq!(
        text(cache.file(&file, &credentials).await.unwrap()),
        "right"
    );
}

#[tokio::test]
async fn a_file_of_a_branch_is_downloaded_anew_when_the_branch_moves() {
    let server = MockServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    for (oid, content) in [("1", "old"), ("2", "new")] {
        let listed = json!({ "type": "file", "path": "a.jsonl", "size": 3, "oid": oid });
        hub(&server, "main", listed, content).await;
        let found = cache
            .file("hf://datasets/org/rows/a.jsonl", &of_hub(&server))
            .await
            .unwrap();
        assert_eq!(text(found), content);
    }
}

/// A server with one file, and what it says of it.
async fn web(server: &MockServer, header: Option<(&str, &str)>, content: &str) {
    server.reset().await;
    let mut answer = ResponseTemplate::new(200).set_body_string(content);
    if let Some((name, value)) = header {
        answer = answer.insert_header(name, value);
    }
    Mock::given(path("/a.jsonl"))
        .respond_with(answer)
        .mount(server)
        .await;
}

#[tokio::test]
async fn a_url_without_an_etag_is_downloaded_anew_when_its_time_changes() {
    let server = MockServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    let (store, name) = file_at(&format!("{}/a.jsonl", server.uri()));
    for (time, content, expected) in [
        ("Thu, 01 Jan 2026 00:00:00 GMT", "old", "old"),
        ("Thu, 01 Jan 2026 00:00:00 GMT", "odd", "old"),
        ("Fri, 02 Jan 2026 00:00:00 GMT", "new", "new"),
    ] {
        web(&server, Some(("Last-Modified", time)), content).await;
        assert_eq!(text(cache.object(&store, &name).await.unwrap()), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_of_which_nothing_is_said_is_downloaded_once_by_each_process() {
    let server = MockServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    let url = format!("{}/a.jsonl", server.uri());
    let (store, name) = file_at(&url);
    web(&server, None, "old").await;
    let ours = cache.object(&store, &name).await.unwrap();
    web(&server, None, "new").await;
    let theirs = fetched(&url, folder.path(), None, &[]).unwrap();
    assert_eq!(text(theirs), "new");
    assert_eq!(cache.object(&store, &name).await.unwrap(), ours);
    assert_eq!(text(ours), "old");
}

#[tokio::test]
async fn urls_that_differ_in_their_query_are_two_files() {
    let server = MockServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    for content in ["one", "two"] {
        Mock::given(path("/a.jsonl"))
            .and(query_param("file", content))
            .respond_with(
                ResponseTemplate::new(200)
                    .insert_header("ETag", "\"1\"")
                    .set_body_string(content),
            )
            .mount(&server)
            .await;
        let (store, name) = file_at(&format!("{}/a.jsonl?file={content}", server.uri()));
        assert_eq!(text(cache.object(&store, &name).await.unwrap()), content);
    }
}
