//! Jobs from start to end on the real cluster, and what may happen to them in between.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::{condition, label};
use finetune_crds::{Adapter, FineTuneJob};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use system_tests::cluster::{self, Namespace, OPERATOR_NAMESPACE, OperatorAway, background};
use system_tests::{command, fine_tune_job, job, process, wait};

/// How many steps make a job slow enough to be hit, and fast enough to be waited for.
const STEPS: usize = 600;

/// A job that runs for a while.
fn long(name: &str) -> Value {
    job::tiny(
        name,
        json!({"training": {"maxSteps": STEPS, "batchSize": 32}, "checkpoint": {"everySteps": 100}, "dataset": {"validation": null}}),
    )
}

/// The train pods of a job.
async fn train_pods(namespace: &Namespace, name: &str) -> Result<Vec<Pod>> {
    let selector = format!("{}={name},{}=train", label::FINE_TUNE_JOB, label::STAGE);
    Ok(namespace
        .api::<Pod>()
        .list(&ListParams::default().labels(&selector))
        .await?
        .items)
}

/// Step and loss of each row of the metrics.
fn losses(metrics: &[Value]) -> Vec<(u64, u64)> {
    metrics
        .iter()
        .filter_map(|row| Some((row["step"].as_u64()?, row["loss"].as_f64()?.to_bits())))
        .collect()
}

#[tokio::test]
async fn each_method_ends_with_a_published_result() -> Result<()> {
    let namespace = Namespace::create("methods").await?;
    job::tiny_world().await?;
    for (name, method) in [
        ("lora", json!({"lora": {"rank": 4, "alpha": 8}})),
        (
            "qlora",
            json!({"lora": null, "qlora": {"rank": 4, "alpha": 8}}),
        ),
        ("full", json!({"lora": null, "full": {}})),
    ] {
        namespace.apply(&job::tiny(name, json!({"method": method})).to_string())?;
    }
    for name in ["lora", "qlora", "full"] {
        let done = fine_tune_job::succeeded(&namespace, name, 240).await?;
        let result = fine_tune_job::result(&done)?;
        let folder = if name == "full" { "model" } else { "sha256-" };
        ensure!(result.uri.contains(folder), "{name}: {}", result.uri);
        ensure!(
            result.adapter_digest.is_some() == (name != "full"),
            "{name}: {result:?}"
        );
        ensure!(
            result.model_digest.is_some() == (name == "full"),
            "{name}: {result:?}"
        );
        let progress = done
            .status
            .as_ref()
            .and_then(|s| s.progress.clone())
            .context("no progress")?;
        ensure!(
            progress.step == 8 && progress.percent == "100%",
            "{name}: {progress:?}"
        );
    }
    let adapter = namespace.api::<Adapter>().get("lora").await?;
    ensure!(
        adapter.spec.source.is_some() && adapter.owner_references().is_empty(),
        "{adapter:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_dry_run_checks_the_data_and_starts_no_training() -> Result<()> {
    let namespace = Namespace::create("dry").await?;
    job::tiny_world().await?;
    namespace.apply(&job::tiny("dry", json!({"dryRun": true})).to_string())?;
    let done = fine_tune_job::succeeded(&namespace, "dry", 120).await?;
    let published =
        fine_tune_job::condition(&done, condition::PUBLISHED).context("no condition Published")?;
    ensure!(
        published.status == "False" && published.reason == "DryRun",
        "{published:?}"
    );
    let status = done.status.as_ref().context("no status")?;
    ensure!(
        status
            .dataset
            .as_ref()
            .is_some_and(|data| data.rows + data.validation_rows == 64),
        "{status:?}"
    );
    ensure!(
        train_pods(&namespace, "dry").await?.is_empty(),
        "a dry run trained"
    );
    Ok(())
}

#[tokio::test]
async fn a_killed_trainer_goes_on_from_its_checkpoint_with_the_same_losses_to_the_last_bit()
-> Result<()> {
    let namespace = Namespace::create("kill").await?;
    job::tiny_world().await?;
    namespace.apply(&long("whole").to_string())?;
    let whole = fine_tune_job::succeeded(&namespace, "whole", 300).await?;
    namespace.apply(&long("killed").to_string())?;
    fine_tune_job::at_step(&namespace, "killed", 120, 180).await?;
    let pod = train_pods(&namespace, "killed")
        .await?
        .into_iter()
        .next()
        .context("no train pod")?;
    process::kill(&pod.uid().context("no UID")?, "train")?;
    let killed = fine_tune_job::succeeded(&namespace, "killed", 300).await?;
    ensure!(
        train_pods(&namespace, "killed").await?.len() == 2,
        "expected one pod that was killed and one that went on"
    );
    let (expected, got) = (
        losses(&fine_tune_job::metrics(&whole).await?),
        losses(&fine_tune_job::metrics(&killed).await?),
    );
    ensure!(expected.len() == STEPS, "{} rows", expected.len());
    ensure!(
        expected == got,
        "first difference at {:?}",
        expected.iter().zip(&got).find(|(a, b)| a != b)
    );
    let weights =
        |job: &FineTuneJob| fine_tune_job::result(job).map(|result| result.adapter_digest.clone());
    ensure!(weights(&whole)?.is_some(), "no digest");
    Ok(())
}

/// The operator is away, so that nobody reads the pod's last words; the pod dies with them as soon as the result is in the
/// store.
#[tokio::test]
async fn a_result_whose_pod_died_before_anyone_read_it_is_found_and_not_trained_again() -> Result<()>
{
    let namespace = Namespace::create("unread").await?;
    job::tiny_world().await?;
    namespace.apply(&long("unread").to_string())?;
    let running = fine_tune_job::at_step(&namespace, "unread", 20, 180).await?;
    let pod = train_pods(&namespace, "unread")
        .await?
        .into_iter()
        .next()
        .context("no train pod")?;
    let away = OperatorAway::send().await?;
    let outcome = wait::until("the outcome in the store", 300, || async {
        fine_tune_job::file(&running, "outcome.json")
            .await
            .map(Some)
    })
    .await?;
    // It may have ended by itself by now: what counts is that its message is lost.
    let _ = process::kill(&pod.uid().context("no UID")?, "train");
    namespace.kubectl("delete job unread-train --cascade=background --wait=false")?;
    namespace.kubectl(&format!(
        "delete pod {} --force --grace-period=0 --ignore-not-found",
        pod.name_any()
    ))?;
    wait::until("the first train pod to be gone", 60, || async {
        Ok(train_pods(&namespace, "unread")
            .await?
            .is_empty()
            .then_some(()))
    })
    .await?;
    let unread = namespace.api::<FineTuneJob>().get("unread").await?;
    ensure!(
        unread
            .status
            .as_ref()
            .is_none_or(|status| status.result.is_none()),
        "somebody has read the result: {:?}",
        unread.status
    );
    drop(away);

    let done = fine_tune_job::succeeded(&namespace, "unread", 180).await?;
    ensure!(
        fine_tune_job::file(&done, "outcome.json").await? == outcome,
        "the outcome was written again"
    );
    let outcome: Value = serde_json::from_str(&outcome)?;
    ensure!(
        fine_tune_job::result(&done)?.adapter_digest.as_deref()
            == outcome["adapter"]["digest"].as_str(),
        "{:?}",
        done.status
    );
    let log = namespace.kubectl("logs job/unread-train")?;
    ensure!(
        log.contains("the job is done") && !log.contains("published "),
        "the second pod trained again:\n{log}"
    );
    Ok(())
}

#[tokio::test]
async fn an_operator_that_is_killed_starts_no_second_train_job_and_loses_no_result() -> Result<()> {
    let namespace = Namespace::create("operator").await?;
    job::tiny_world().await?;
    namespace.apply(&long("steady").to_string())?;
    fine_tune_job::at_step(&namespace, "steady", 50, 180).await?;
    let before = namespace.api::<Job>().get("steady-train").await?.uid();
    command::kubectl(&format!(
        "--namespace {OPERATOR_NAMESPACE} delete pods --all --force --grace-period=0"
    ))?;
    fine_tune_job::succeeded(&namespace, "steady", 300).await?;
    let after = namespace.api::<Job>().get("steady-train").await?.uid();
    ensure!(before == after, "the train Job was replaced");
    ensure!(
        train_pods(&namespace, "steady").await?.len() == 1,
        "a second train pod was started"
    );
    Ok(())
}

#[tokio::test]
async fn deleting_a_job_at_any_phase_leaves_no_pod() -> Result<()> {
    let namespace = Namespace::create("delete").await?;
    job::tiny_world().await?;
    for phase in [JobPhase::Preparing, JobPhase::Training, JobPhase::Succeeded] {
        let name = phase.as_str().to_lowercase();
        let manifest = if phase == JobPhase::Training {
            long(&name)
        } else {
            job::tiny(&name, json!({}))
        };
        namespace.apply(&manifest.to_string())?;
        wait::object(
            &namespace.api::<FineTuneJob>(),
            &name,
            phase.as_str(),
            240,
            |job| fine_tune_job::phase(job) == Some(phase),
        )
        .await?;
        namespace
            .api::<FineTuneJob>()
            .delete(&name, &background())
            .await?;
        wait::until("no pod and no Job is left", 90, || async {
            let selector =
                ListParams::default().labels(&format!("{}={name}", label::FINE_TUNE_JOB));
            let pods = namespace.api::<Pod>().list(&selector).await?.items.len();
            let jobs = namespace.api::<Job>().list(&selector).await?.items.len();
            Ok((pods + jobs == 0).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn deleted_children_come_back_while_the_job_runs_and_stay_away_when_it_has_ended()
-> Result<()> {
    let namespace = Namespace::create("children").await?;
    job::tiny_world().await?;
    namespace.apply(&long("parent").to_string())?;
    fine_tune_job::at_step(&namespace, "parent", 20, 180).await?;
    namespace
        .api::<Job>()
        .delete("parent-train", &background())
        .await?;
    let done = fine_tune_job::succeeded(&namespace, "parent", 300).await?;
    namespace
        .api::<Job>()
        .delete("parent-train", &background())
        .await?;
    namespace
        .api::<Job>()
        .delete("parent-prepare", &background())
        .await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    ensure!(
        namespace
            .api::<Job>()
            .list(&ListParams::default())
            .await?
            .items
            .is_empty(),
        "a finished job ran again"
    );
    let after = namespace.api::<FineTuneJob>().get("parent").await?;
    ensure!(
        after.resource_version() == done.resource_version(),
        "a finished job's status still changes"
    );
    Ok(())
}

#[tokio::test]
async fn an_older_job_never_undoes_a_newer_digest_and_a_deleted_adapter_stays_deleted() -> Result<()>
{
    let namespace = Namespace::create("order").await?;
    job::tiny_world().await?;
    let shared =
        |seed: i64| json!({"training": {"seed": seed}, "output": {"adapter": {"name": "shared"}}});
    let (older, newer) = (job::tiny("older", shared(1)), job::tiny("newer", shared(2)));
    namespace.apply(&older.to_string())?;
    fine_tune_job::succeeded(&namespace, "older", 180).await?;
    namespace.apply(&newer.to_string())?;
    let second = fine_tune_job::succeeded(&namespace, "newer", 180).await?;
    let digest = fine_tune_job::result(&second)?.adapter_digest.clone();
    // Applied again, and the operator started again: both make the older job be looked at once more.
    namespace.apply(&older.to_string())?;
    namespace.kubectl("annotate finetunejob older looked-at=again")?;
    command::kubectl(&format!(
        "--namespace {OPERATOR_NAMESPACE} rollout restart deployment/finetune-operator"
    ))?;
    command::kubectl(&format!(
        "--namespace {OPERATOR_NAMESPACE} rollout status deployment/finetune-operator --timeout=120s"
    ))?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let adapter = namespace.api::<Adapter>().get("shared").await?;
    ensure!(
        adapter.spec.source.map(|source| source.digest) == digest,
        "the older job undid the newer digest"
    );
    namespace
        .api::<Adapter>()
        .delete("shared", &background())
        .await?;
    namespace.kubectl("annotate finetunejob newer looked-at=again")?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    ensure!(
        namespace
            .api::<Adapter>()
            .get_opt("shared")
            .await?
            .is_none(),
        "a job brought a deleted Adapter back"
    );
    Ok(())
}

/// Sets how long `output.uri` of a job may be; returns how long it might be before.
async fn limit_output(characters: Value) -> Result<Value> {
    let crds: Api<CustomResourceDefinition> = Api::all(cluster::client().await?);
    let definition = crds.get("finetunejobs.finetune.dev").await?;
    let mut definition = serde_json::to_value(definition)?;
    let limit = definition
        .pointer_mut(
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/output/properties/uri/maxLength",
        )
        .context("output.uri has no limit")?;
    let before = std::mem::replace(limit, characters);
    let definition = serde_json::from_value(definition)?;
    crds.replace(
        "finetunejobs.finetune.dev",
        &PostParams::default(),
        &definition,
    )
    .await?;
    Ok(before)
}

#[tokio::test]
async fn a_stored_job_whose_output_is_longer_than_that_of_new_ones_may_be_still_runs() -> Result<()>
{
    let namespace = Namespace::create("long").await?;
    job::tiny_world().await?;
    let output = json!({"output": {"uri": format!("s3://adapters/{}", ["team"; 60].join("/"))}});
    let jobs: Api<FineTuneJob> = namespace.api();
    let new: FineTuneJob = serde_json::from_value(job::tiny("new", output.clone()))?;
    let refused = async || {
        let only_asked = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let answer = jobs.create(&only_asked, &new).await;
        answer.is_err_and(|error| error.to_string().contains("256"))
    };
    ensure!(refused().await, "a new job with a long output is taken");

    let limit = limit_output(json!(1024)).await?;
    // The API server takes a new schema in its own time.
    let stored = wait::until("a stored job with a long output", 60, || async {
        Ok(namespace
            .apply(&job::tiny("stored", output.clone()).to_string())
            .ok())
    })
    .await;
    limit_output(limit).await?;
    stored?;
    wait::until("the limit to hold again", 60, || async {
        Ok(refused().await.then_some(()))
    })
    .await?;

    // What does not touch the field passes: labels of people, and the operator's status.
    namespace.kubectl("label finetunejob stored looked-at=yes")?;
    let done = fine_tune_job::succeeded(&namespace, "stored", 240).await?;
    ensure!(
        fine_tune_job::result(&done)?.uri.contains("team/team"),
        "{:?}",
        done.status
    );
    Ok(())
}
