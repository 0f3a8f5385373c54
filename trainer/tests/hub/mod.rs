//! A small server that speaks the Hugging Face Hub's API: one repository, `org/tiny`, whose branch moves. The tests of the whole
//! system use it too.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

use std::path::PathBuf;

use serde_json::{Value, json};
use wiremock::matchers::{method, path, path_regex};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

/// What the branch `main` is when it is first asked for.
pub(crate) const COMMIT: &str = "3333333333333333333333333333333333333333";
/// What it is from then on; of this commit there are no files.
pub(crate) const NEWER: &str = "4444444444444444444444444444444444444444";

/// Serves the files of `folder` as [`COMMIT`] of the repository.
pub(crate) async fn serve(server: &MockServer, folder: PathBuf) {
    let tree: Vec<Value> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let (name, size) = (entry.file_name(), entry.metadata().unwrap().len());
            let name = name.to_str().unwrap();
            json!({"type": "file", "path": name, "size": size, "oid": format!("oid-{name}")})
        })
        .collect();
    let api = |route: String, body: Value| {
        Mock::given(method("GET"))
            .and(path(format!("/api/models/org/tiny/{route}")))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
    };
    api("revision/main".to_owned(), json!({ "sha": COMMIT }))
        .up_to_n_times(1)
        .mount(server)
        .await;
    api("revision/main".to_owned(), json!({ "sha": NEWER }))
        .mount(server)
        .await;
    api(format!("tree/{COMMIT}"), Value::Array(tree))
        .mount(server)
        .await;
    Mock::given(method("GET"))
        .and(path_regex(format!("^/org/tiny/resolve/{COMMIT}/")))
        .respond_with(move |request: &Request| {
            let name = request.url.path().rsplit('/').next().unwrap();
            match std::fs::read(folder.join(name)) {
                Ok(bytes) => ResponseTemplate::new(200).set_body_bytes(bytes),
                Err(_) => ResponseTemplate::new(404),
            }
        })
        .mount(server)
        .await;
}
