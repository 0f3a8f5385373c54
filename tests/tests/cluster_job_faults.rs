//! What goes wrong with a job ends as phase Failed, or as a retry where that helps, with a condition and an Event that
//! name the cause and the cure.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use finetune_crds::FineTuneJob;
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::condition;
use serde_json::{Value, json};
use system_tests::cluster::Namespace;
use system_tests::{fine_tune_job, job, store, wait};

/// Applies a job and expects it to fail with every word in a condition's message and in an Event.
async fn fails(namespace: &Namespace, name: &str, changes: Value, words: &[&str]) -> Result<()> {
    namespace.apply(&job::tiny(name, changes).to_string())?;
    let failed = fine_tune_job::finished(namespace, name, 120).await?;
    ensure!(
        fine_tune_job::phase(&failed) == Some(JobPhase::Failed),
        "{name} did not fail: {:?}",
        failed.status
    );
    let message = fine_tune_job::condition(&failed, condition::FAILED)
        .map(|c| c.message.clone())
        .unwrap_or_default();
    for word in words {
        ensure!(
            message.contains(word),
            "{name}: the condition Failed does not say `{word}`: {message}"
        );
    }
    wait::until("an Event with the cause", 20, || async {
        let events = namespace.events(name).await?;
        Ok(events
            .iter()
            .any(|event| words.iter().all(|word| event.contains(word)))
            .then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_malformed_row_fails_the_job_with_its_line() -> Result<()> {
    let namespace = Namespace::create("faults").await?;
    job::tiny_world().await?;
    let mut lines: Vec<String> = job::rows(20).lines().map(str::to_owned).collect();
    lines[16] = r#"{"prompt": "half a row""#.to_owned();
    job::upload_text("data", "tiny/malformed.jsonl", &(lines.join("\n") + "\n")).await?;
    fails(
        &namespace,
        "malformed",
        json!({"dataset": {"train": [{"uri": "s3://data/tiny/malformed.jsonl"}]}}),
        &["malformed.jsonl", "17"],
    )
    .await
}

#[tokio::test]
async fn a_missing_file_and_a_missing_bucket_are_named() -> Result<()> {
    let namespace = Namespace::create("faults").await?;
    job::tiny_world().await?;
    fails(
        &namespace,
        "nofile",
        json!({"dataset": {"train": [{"uri": "s3://data/tiny/absent.jsonl"}]}}),
        &["tiny/absent.jsonl"],
    )
    .await?;
    fails(
        &namespace,
        "nobucket",
        json!({"dataset": {"train": [{"uri": "s3://no-such-bucket/a.jsonl"}]}}),
        &["no-such-bucket"],
    )
    .await
}

#[tokio::test]
async fn messages_without_a_chat_template_and_an_unknown_architecture_are_refused_by_prepare()
-> Result<()> {
    let namespace = Namespace::create("faults").await?;
    job::tiny_world().await?;
    let base = job::fixtures().join("tiny-llama");
    let folder = tempfile::tempdir()?;
    for entry in std::fs::read_dir(&base)? {
        let entry = entry?;
        std::fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
    }
    let path = folder.path().join("config.json");
    let mut config: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(&path)?)?;
    config.insert("architectures".to_owned(), json!(["RetNetForCausalLM"]));
    config.insert("model_type".to_owned(), json!("retnet"));
    std::fs::write(&path, serde_json::to_vec(&config)?)?;
    job::upload_folder("models", "retnet", folder.path()).await?;
    fails(
        &namespace,
        "architecture",
        json!({"baseModel": {"uri": "s3://models/retnet/"}}),
        &["RetNetForCausalLM", "LlamaForCausalLM"],
    )
    .await?;

    std::fs::copy(base.join("config.json"), &path)?;
    let path = folder.path().join("tokenizer_config.json");
    let mut config: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(&path)?)?;
    config.remove("chat_template");
    std::fs::write(&path, serde_json::to_vec(&config)?)?;
    let _ = std::fs::remove_file(folder.path().join("chat_template.jinja"));
    job::upload_folder("models", "untemplated", folder.path()).await?;
    job::upload_text(
        "data",
        "tiny/chat.jsonl",
        &(json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}).to_string() + "\n"),
    )
    .await?;
    fails(
        &namespace,
        "template",
        json!({
            "baseModel": {"uri": "s3://models/untemplated/"},
            "dataset": {"train": [{"uri": "s3://data/tiny/chat.jsonl"}], "validation": null},
        }),
        &["chat template"],
    )
    .await
}

#[tokio::test]
async fn a_missing_secret_is_named_at_once_and_the_job_goes_on_when_it_comes() -> Result<()> {
    let namespace = Namespace::create("faults").await?;
    job::tiny_world().await?;
    namespace.apply(
        &job::tiny(
            "secretless",
            json!({"dataset": {"credentialsSecretRef": {"name": "late"}}}),
        )
        .to_string(),
    )?;
    wait::until("a condition or Event that names the Secret", 60, || async {
        let job = namespace.api::<FineTuneJob>().get("secretless").await?;
        let said = job
            .status
            .iter()
            .flat_map(|status| &status.conditions)
            .any(|c| c.message.contains("late"));
        let told = namespace
            .events("secretless")
            .await?
            .iter()
            .any(|event| event.contains("late"));
        Ok((said && told).then_some(()))
    })
    .await?;
    namespace.apply(&store::secret("late")?)?;
    fine_tune_job::succeeded(&namespace, "secretless", 180).await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_secret_fails_the_job_and_names_the_secret_but_never_the_key() -> Result<()> {
    let namespace = Namespace::create("faults").await?;
    job::tiny_world().await?;
    namespace.apply(&store::secret_with(
        "wrong",
        &[("AWS_SECRET_ACCESS_KEY", "canary-of-a-secret")],
    )?)?;
    fails(
        &namespace,
        "refused",
        json!({"dataset": {"credentialsSecretRef": {"name": "wrong"}}, "maxRetries": 0}),
        &["wrong"],
    )
    .await?;
    let all = namespace
        .kubectl("get finetunejobs,jobs,pods,configmaps,events.events.k8s.io --output yaml")?;
    ensure!(
        !all.contains("canary-of-a-secret"),
        "a credential is in the cluster's objects"
    );
    Ok(())
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_and_a_node_that_is_not_there_are_causes_a_person_reads()
-> Result<()> {
    let namespace = Namespace::create("faults").await?;
    job::tiny_world().await?;
    namespace.apply(
        &job::tiny(
            "nowhere",
            json!({"placement": {"nodeSelector": {"no-such": "node"}}}),
        )
        .to_string(),
    )?;
    wait::object(
        &namespace.api::<FineTuneJob>(),
        "nowhere",
        "waiting for a node with the cause",
        60,
        |job| {
            fine_tune_job::condition(job, condition::PODS_RUNNING).is_some_and(|c| {
                c.status == "False" && c.reason == "Unschedulable" && c.message.contains("node")
            })
        },
    )
    .await?;
    Ok(())
}
