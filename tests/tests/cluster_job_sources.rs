//! Where things come from: a base from the Hugging Face Hub, by a small server that speaks its API (pods reach it at the node's
//! address), and data on a claim.

use anyhow::{Context, Result, ensure};
use hub::{COMMIT, NEWER};
use serde_json::{Value, json};
use system_tests::cluster::Namespace;
use system_tests::volume::Volume;
use system_tests::{command, fine_tune_job, job};
use wiremock::MockServer;

#[path = "../../trainer/tests/hub/mod.rs"]
mod hub;

/// The tiny model as the repository `org/tiny`: a job must stay with the commit that its branch is first.
async fn hub() -> Result<MockServer> {
    let node = command::kubectl(
        "get nodes --output jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}",
    )?;
    let listener =
        std::net::TcpListener::bind((node.trim(), 0)).context("bind the node's address")?;
    let server = MockServer::builder().listener(listener).start().await;
    hub::serve(&server, job::fixtures().join("tiny-llama")).await;
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
            .any(|request| request.url.path().contains(NEWER)),
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

#[tokio::test]
async fn data_on_a_claim_is_trained_on_and_downloads_are_kept_for_the_next_job() -> Result<()> {
    let namespace = Namespace::create("claims").await?;
    job::tiny_world().await?;
    let data = Volume::create(&namespace, "data")?;
    std::fs::create_dir(data.folder.join("team"))?;
    std::fs::write(data.folder.join("team/rows.jsonl"), job::rows(48))?;
    let downloads = Volume::create(&namespace, "downloads")?;
    let on_claims = json!({
        "dataset": {
            "train": [{"uri": "pvc://data/team/"}],
            "credentialsSecretRef": null,
        },
        "placement": {"cacheClaimName": "downloads"},
    });
    namespace.apply(&job::tiny("first", on_claims.clone()).to_string())?;
    let done = fine_tune_job::succeeded(&namespace, "first", 240).await?;
    let dataset = done.status.and_then(|status| status.dataset);
    let rows = dataset.map(|dataset| dataset.rows + dataset.validation_rows);
    ensure!(rows == Some(48), "{rows:?} rows were found, expected 48");
    ensure!(
        data.names()? == ["team"],
        "something was written to the claim of the data: {:?}",
        data.names()?
    );
    let kept = downloads.names()?;
    let whole = kept
        .iter()
        .filter(|name| downloads.folder.join(name).is_dir())
        .count();
    ensure!(
        whole > 0 && !kept.iter().any(|name| name.ends_with(".partial")),
        "{kept:?}"
    );
    ensure!(
        kept.iter().all(|name| name.starts_with("sha256-")),
        "{kept:?}"
    );

    let mut next = job::tiny("next", on_claims);
    job::merge(&mut next["spec"], json!({"dryRun": true}));
    namespace.apply(&next.to_string())?;
    fine_tune_job::succeeded(&namespace, "next", 240).await?;
    ensure!(
        downloads.names()? == kept,
        "the next job downloaded again: {:?}, before {kept:?}",
        downloads.names()?
    );
    Ok(())
}
