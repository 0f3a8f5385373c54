//! What the agent refuses, on a model small enough to train in seconds.

use anyhow::{Result, ensure};
use finetune_crds::Adapter;
use finetune_crds::names::condition;
use serde_json::json;
use system_tests::cluster::Namespace;
use system_tests::{fine_tune_job, job, support, wait};

/// The example's Deployment and Service, on the tiny model.
fn deployment() -> Result<String> {
    Ok(support::manifest("inference.yaml")?
        .replace(
            "s3://models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
            "s3://models/tiny-llama/",
        )
        .replace("replicas: 2", "replicas: 1"))
}

/// An Adapter on it.
fn adapter(name: &str) -> String {
    json!({
        "apiVersion": "finetune.dev/v1alpha1", "kind": "Adapter", "metadata": {"name": name},
        "spec": {"serving": [{"deploymentName": "support-model", "engine": {"type": "Finetune", "port": 8000}}]},
    })
    .to_string()
}

#[tokio::test]
async fn an_adapter_that_changes_nothing_is_refused_with_a_reason_that_says_so() -> Result<()> {
    let namespace = Namespace::create("nothing").await?;
    job::tiny_world().await?;
    namespace.apply(&deployment()?)?;
    namespace.apply(&adapter("idle"))?;
    // A learning rate of 1e-10 leaves B at its start, 0, for all that a float can tell.
    namespace.apply(
        &job::tiny(
            "idle",
            json!({"training": {"learningRate": 1e-10, "maxSteps": 1}}),
        )
        .to_string(),
    )?;
    fine_tune_job::succeeded(&namespace, "idle", 180).await?;
    let refused = wait::object(
        &namespace.api::<Adapter>(),
        "idle",
        "refused",
        180,
        |adapter| {
            adapter.status.as_ref().is_some_and(|status| {
                status.conditions.iter().any(|c| {
                    c.type_ == condition::LOADED
                        && c.status == "False"
                        && c.message.contains("changes nothing")
                })
            })
        },
    )
    .await?;
    ensure!(
        !support::is_ready(&refused),
        "an adapter that changes nothing is Ready"
    );
    Ok(())
}

#[tokio::test]
async fn an_alias_that_two_adapters_claim_stays_with_the_older() -> Result<()> {
    let namespace = Namespace::create("conflict").await?;
    job::tiny_world().await?;
    namespace.apply(&deployment()?)?;
    namespace.apply(&adapter("first"))?;
    namespace.apply(&job::tiny("first", json!({})).to_string())?;
    fine_tune_job::succeeded(&namespace, "first", 180).await?;
    wait::object(
        &namespace.api::<Adapter>(),
        "first",
        "Ready",
        180,
        support::is_ready,
    )
    .await?;
    let second = adapter("second").replace(
        "\"deploymentName\"",
        "\"alias\":\"first\",\"deploymentName\"",
    );
    namespace.apply(&second)?;
    wait::object(
        &namespace.api::<Adapter>(),
        "second",
        "in conflict",
        60,
        |adapter| {
            adapter.status.as_ref().is_some_and(|status| {
                status.conditions.iter().any(|c| {
                    c.type_ == condition::CONFLICT
                        && c.status == "True"
                        && c.message.contains("first")
                })
            })
        },
    )
    .await?;
    ensure!(
        support::is_ready(&namespace.api::<Adapter>().get("first").await?),
        "the older lost its alias"
    );
    Ok(())
}
