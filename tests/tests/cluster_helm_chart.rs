//! The chart on a real API server: lint, an upgrade over a running job, and an uninstall that keeps what users own.
//! Named to run in its own binary, since it takes the operator away for a moment.

use anyhow::{Context, Result, ensure};
use finetune_crds::FineTuneJob;
use kube::ResourceExt;
use serde_json::json;
use system_tests::cluster::{Namespace, OPERATOR_NAMESPACE};
use system_tests::{command, fine_tune_job, job};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/finetune-operator");

/// Installs again what a test has taken away.
fn install() -> Result<String> {
    command::run(
        concat!(env!("CARGO_MANIFEST_DIR"), "/install.sh"),
        &[],
        None,
    )
}

#[test]
fn lint_finds_nothing_and_a_value_that_nothing_acts_on_is_refused() -> Result<()> {
    command::run("helm", &["lint", "--strict", CHART], None)?;
    let output = command::output(
        "helm",
        &["template", CHART, "--set", "no.such.value=1"],
        None,
    )?;
    ensure!(!output.status.success(), "an unknown value was accepted");
    Ok(())
}

#[test]
fn roles_name_no_wildcard_and_no_verb_on_secrets() -> Result<()> {
    let text = command::run("helm", &["template", CHART], None)?;
    ensure!(
        !text.contains("secrets]") && !text.contains("resources: [secrets"),
        "a role names Secrets"
    );
    ensure!(
        !text.contains("verbs: [\"*\"]") && !text.contains("resources: [\"*\"]"),
        "a role has a wildcard"
    );
    Ok(())
}

#[tokio::test]
async fn an_upgrade_over_a_running_job_changes_no_pod_of_it() -> Result<()> {
    let namespace = Namespace::create("upgrade").await?;
    job::tiny_world().await?;
    let changes =
        json!({"training": {"maxSteps": 1500, "batchSize": 32}, "dataset": {"validation": null}});
    namespace.apply(&job::tiny("running", changes).to_string())?;
    fine_tune_job::at_step(&namespace, "running", 50, 180).await?;
    command::run(
        concat!(env!("CARGO_MANIFEST_DIR"), "/install.sh"),
        &["--set", "log.filter=debug"],
        None,
    )?;
    fine_tune_job::succeeded(&namespace, "running", 300).await?;
    let pods = namespace.kubectl("get pods --selector finetune.dev/stage=train --output name")?;
    ensure!(
        pods.lines().count() == 1,
        "the train pod was replaced: {pods}"
    );
    install()?;
    Ok(())
}

#[tokio::test]
async fn an_uninstall_keeps_definitions_and_objects() -> Result<()> {
    let namespace = Namespace::create("uninstall").await?;
    job::tiny_world().await?;
    namespace.apply(&job::tiny("kept", json!({"dryRun": true})).to_string())?;
    let before = fine_tune_job::succeeded(&namespace, "kept", 120).await?;
    command::run(
        "helm",
        &[
            "uninstall",
            "finetune-operator",
            "--namespace",
            OPERATOR_NAMESPACE,
            "--wait",
        ],
        None,
    )?;
    let after = namespace.api::<FineTuneJob>().get("kept").await;
    install()?;
    let after = after.context("the FineTuneJob went with the chart")?;
    ensure!(after.uid() == before.uid(), "the FineTuneJob was made anew");
    Ok(())
}
