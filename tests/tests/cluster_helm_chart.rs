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
fn a_label_that_the_administrator_allows_reaches_the_policy_and_what_is_no_key_is_refused()
-> Result<()> {
    let with = |keys: &str| {
        let value = format!("admissionPolicy.allowedLabels={{{keys}}}");
        command::output("helm", &["template", CHART, "--set", &value], None)
    };
    let output = with("team,example.com/cost-centre")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        text.contains(r#"[\"team\",\"example.com/cost-centre\"]"#),
        "the keys are not in the policy: {text}"
    );
    for broken in ["a'b", "a b", "a/b/c", "-a"] {
        let output = with(broken)?;
        ensure!(!output.status.success(), "{broken} was accepted");
    }
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
    let running = fine_tune_job::at_step(&namespace, "running", 50, 180).await?;
    command::run(
        concat!(env!("CARGO_MANIFEST_DIR"), "/install.sh"),
        &["--set", "log.filter=debug"],
        None,
    )?;
    // It goes on, and the new operator reads how far it is.
    let progress = running.status.and_then(|status| status.progress);
    let step = progress.context("no progress")?.step;
    fine_tune_job::at_step(&namespace, "running", step + 100, 300).await?;
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
