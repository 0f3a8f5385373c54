//! A base from the Hugging Face Hub, by a small server that speaks its API: pods reach it at the node's address.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::cluster::Namespace;
use system_tests::{command, fine_tune_job, job};
use wiremock::matchers::{method, path, path_regex};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

const COMMIT: &str = "3333333333333333333333333333333333333333";

/// The tiny model as the repository `org/tiny`, whose branch `main` is [`COMMIT`].
async fn hub() -> Result<MockServer> {
    let node = command::kubectl(
        "get nodes --output jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}",
    )?;
    let listener =
        std::net::TcpListener::bind((node.trim(), 0)).context("bind the node's address")?;
    let server = MockServer::builder().listener(listener).start().await;
    let folder = job::fixtures().join("tiny-llama");
    let mut tree: Vec<Value> = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let bytes = std::fs::read(folder.join(&name))?;
        tree.push(json!({"type": "file", "path": name, "size": bytes.len(), "oid": format!("oid-{name}")}));
    }
    let api = |route: &str, body: Value| {
        Mock::given(method("GET"))
            .and(path(format!("/api/models/org/tiny/{route}")))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
    };
    // The branch moves after it was asked for once: a job must stay with the commit that it has found.
    api("revision/main", json!({"sha": COMMIT}))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    api(
        "revision/main",
        json!({"sha": "4444444444444444444444444444444444444444"}),
    )
    .mount(&server)
    .await;
    api(&format!("tree/{COMMIT}"), Value::Array(tree))
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path_regex(format!("^/org/tiny/resolve/{COMMIT}/")))
        .respond_with(move |request: &Request| {
            let name = request.url.path().rsplit('/').next().unwrap_or_default();
            match std::fs::read(folder.join(name)) {
                Ok(bytes) => ResponseTemplate::new(200).set_body_bytes(bytes),
                Err(_) => ResponseTemplate::new(404),
            }
        })
        .mount(&server)
        .await;
    Ok(server)
}

#[tokio::test]
async fn a_base_on_the_hub_is_trained_on_at_the_commit_that_its_branch_was_when_the_data_was_prepared()
-> Result<()> {
    let namespace = Namespace::create("hub").await?;
    job::tiny_world().await?;
    let hub = hub().await?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"},
        "stringData": {"HF_ENDPOINT": hub.uri()},
    });
    namespace.apply(&secret.to_string())?;
    let base = json!({"uri": "hf://org/tiny", "revision": "main", "credentialsSecretRef": {"name": "hub"}});
    namespace.apply(&job::tiny("hub", json!({"baseModel": base})).to_string())?;
    let done = fine_tune_job::succeeded(&namespace, "hub", 240).await?;
    let found = done
        .status
        .as_ref()
        .and_then(|status| status.base_model.as_ref());
    ensure!(
        found.and_then(|base| base.revision.as_deref()) == Some(COMMIT),
        "{:?}",
        done.status
    );
    let asked = hub.received_requests().await.unwrap_or_default();
    ensure!(
        !asked
            .iter()
            .any(|request| request.url.path().contains("44444444")),
        "a stage read another commit"
    );
    let published = fine_tune_job::result(&done)?.uri.clone();
    let config = system_tests::store::text(&format!("{published}adapter_config.json")).await?;
    let config: Value = serde_json::from_str(&config)?;
    ensure!(
        config["base_model_name_or_path"] == "org/tiny" && config["revision"] == COMMIT,
        "{config}"
    );
    Ok(())
}
