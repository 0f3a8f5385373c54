//! Deletions end: nothing of ours holds an object back, whatever the job names and whoever deletes it.

use anyhow::{Context, Result, ensure};
use finetune_crds::{Adapter, FineTuneJob};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use system_tests::cluster::{Namespace, OperatorAway};
use system_tests::volume::Volume;
use system_tests::{job, wait};

/// Waits until nothing has the name any more.
async fn gone<K>(namespace: &Namespace, name: &str) -> Result<()>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let api = namespace.api::<K>();
    wait::until("the object to go", 60, || async {
        Ok(api.get_opt(name).await?.is_none().then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_job_with_a_claim_an_account_and_a_cache_is_deleted_in_the_foreground() -> Result<()> {
    let namespace = Namespace::create("foreground").await?;
    job::tiny_world().await?;
    namespace.kubectl("create serviceaccount trainer")?;
    let _models = Volume::create(&namespace, "models")?;
    let _cache = Volume::create(&namespace, "cache")?;
    let changes = json!({
        "baseModel": {"uri": "pvc://models/tiny-llama/", "credentialsSecretRef": null},
        "placement": {"serviceAccountName": "trainer", "cacheClaimName": "cache", "terminationGracePeriodSeconds": 1},
    });
    namespace.apply(&job::tiny("job", changes).to_string())?;
    // With children, the garbage collector has something to take away too.
    wait::until("a child of the job", 60, || async {
        let children = namespace.kubectl(
            "get jobs,configmaps --selector finetune.dev/fine-tune-job=job --output name",
        )?;
        Ok((!children.trim().is_empty()).then_some(()))
    })
    .await?;
    let deleted = namespace
        .api::<FineTuneJob>()
        .delete("job", &DeleteParams::foreground())
        .await?;
    ensure!(
        deleted
            .left()
            .is_none_or(|job| job.finalizers().contains(&"foregroundDeletion".to_owned())),
        "the deletion is not in the foreground"
    );
    gone::<FineTuneJob>(&namespace, "job").await?;
    wait::until("no pod to be left", 120, || async {
        let pods = namespace.kubectl("get pods --output name")?;
        Ok(pods.trim().is_empty().then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn an_adapter_is_deleted_though_the_operator_is_away() -> Result<()> {
    let namespace = Namespace::create("no-finalizer").await?;
    let adapter = json!({
        "apiVersion": "finetune.dev/v1alpha1", "kind": "Adapter", "metadata": {"name": "tone"},
        "spec": {
            "source": {"uri": "s3://adapters/tone/", "digest": format!("sha256:{}", "a".repeat(64))},
            "serving": [{"deploymentName": "nobody", "engine": {"type": "Finetune", "port": 8000}}],
        },
    });
    namespace.apply(&adapter.to_string())?;
    let api = namespace.api::<Adapter>();
    wait::object(&api, "tone", "seen", 60, |adapter| adapter.status.is_some()).await?;
    let _away = OperatorAway::send().await?;
    api.delete("tone", &DeleteParams::default()).await?;
    gone::<Adapter>(&namespace, "tone").await
}

#[tokio::test]
async fn an_adapter_with_the_finalizer_of_an_earlier_version_is_let_go() -> Result<()> {
    let namespace = Namespace::create("old-finalizer").await?;
    let api = namespace.api::<Adapter>();
    {
        let _away = OperatorAway::send().await?;
        let adapter = json!({
            "apiVersion": "finetune.dev/v1alpha1", "kind": "Adapter",
            "metadata": {"name": "tone", "finalizers": ["finetune.dev/adapter"]},
            "spec": {"serving": [{"deploymentName": "nobody", "engine": {"type": "Finetune", "port": 8000}}]},
        });
        namespace.apply(&adapter.to_string())?;
        api.delete("tone", &DeleteParams::default()).await?;
        let held = api.get("tone").await.context("nothing held it")?;
        ensure!(
            held.metadata.deletion_timestamp.is_some(),
            "it is not being deleted"
        );
        let label = json!({"metadata": {"labels": {"team": "a"}}});
        api.patch("tone", &PatchParams::default(), &Patch::Merge(&label))
            .await?;
    }
    gone::<Adapter>(&namespace, "tone").await
}
