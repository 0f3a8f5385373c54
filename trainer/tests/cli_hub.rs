//! A base on the Hugging Face Hub, by hand: a job keeps the commit that it was trained on, also once it is done.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

mod bench;

use bench::{Bench, Ended, fixture};
use serde_json::{Value, json};
use wiremock::matchers::{method, path, path_regex};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

const COMMIT: &str = "3333333333333333333333333333333333333333";
const NEWER: &str = "4444444444444444444444444444444444444444";

/// The tiny model as the repository `org/tiny`; its branch `main` is [`COMMIT`] when it is first asked for, then
/// [`NEWER`], of which there are no files.
async fn hub() -> MockServer {
    let server = MockServer::start().await;
    let folder = fixture("tiny-llama");
    let tree: Vec<Value> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let (name, size) = (entry.file_name(), entry.metadata().unwrap().len());
            json!({"type": "file", "path": name.to_str().unwrap(), "size": size, "oid": "1"})
        })
        .collect();
    let api = |route: String, body: Value| {
        Mock::given(method("GET"))
            .and(path(format!("/api/models/org/tiny/{route}")))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
    };
    api("revision/main".to_owned(), json!({ "sha": COMMIT }))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    api("revision/main".to_owned(), json!({ "sha": NEWER }))
        .mount(&server)
        .await;
    api(format!("tree/{COMMIT}"), Value::Array(tree))
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path_regex(format!("^/org/tiny/resolve/{COMMIT}/")))
        .respond_with(move |request: &Request| {
            let name = request.url.path().rsplit('/').next().unwrap();
            ResponseTemplate::new(200).set_body_bytes(std::fs::read(folder.join(name)).unwrap())
        })
        .mount(&server)
        .await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_done_is_evaluated_on_the_commit_that_it_was_trained_on() {
    let hub = hub().await;
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["baseModel"] = json!({ "uri": "hf://org/tiny" });
        job["spec"]["training"]["maxSteps"] = 2.into();
    });
    let run = |name: &str| {
        let mut command = bench.command(name);
        command.env("HF_ENDPOINT", hub.uri()).env_remove("HF_TOKEN");
        Ended::from(command.output().unwrap()).succeeded()
    };
    let outcome = run("train").outcome();
    assert_eq!(outcome["baseModel"]["revision"], COMMIT);
    run("evaluate");
    let asked = hub.received_requests().await.unwrap();
    assert!(
        asked
            .iter()
            .all(|request| !request.url.path().contains(NEWER))
    );
}
