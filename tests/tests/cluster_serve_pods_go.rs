//! Inference pods come and go under clients that keep their connections; and pods of other kinds opt in.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::{Value, json};
use system_tests::cluster::Namespace;
use system_tests::keep_alive::Clients;
use system_tests::{command, job, support, wait};

/// The example's Deployment and Service, on the tiny model.
fn deployment(replicas: u32) -> Result<String> {
    Ok(support::manifest("inference.yaml")?
        .replace(
            "s3://models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
            "s3://models/tiny-llama/",
        )
        .replace("replicas: 2", &format!("replicas: {replicas}")))
}

/// An Adapter on it, which has no version yet: the base answers.
fn adapter() -> String {
    json!({
        "apiVersion": "finetune.dev/v1alpha1", "kind": "Adapter", "metadata": {"name": "later"},
        "spec": {"serving": [{"deploymentName": "support-model", "engine": {"type": "Finetune", "port": 8000}}]},
    })
    .to_string()
}

fn agent_of(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::ContainerStatus> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    statuses
        .iter()
        .find(|status| status.name == finetune_crds::names::AGENT_CONTAINER)
}

/// Waits until the Deployment has its agents and as many pods as it wants, all of the newest kind and Ready.
async fn rolled_out(namespace: &Namespace) -> Result<Vec<Pod>> {
    wait::until("the Deployment to be rolled out", 600, || async {
        let deployment: Deployment = namespace.api().get("support-model").await?;
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        let status = deployment.status.unwrap_or_default();
        let pods = namespace.api::<Pod>().list(&ListParams::default()).await?;
        let pods: Vec<Pod> = pods
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect();
        let is_done = status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == wanted
            && status.ready_replicas == wanted
            && status.replicas == wanted
            && pods.iter().all(|pod| agent_of(pod).is_some());
        Ok(is_done.then_some(pods))
    })
    .await
}

async fn serving(name: &str, replicas: u32) -> Result<Namespace> {
    let namespace = Namespace::create(name).await?;
    job::tiny_world().await?;
    namespace.apply(&adapter())?;
    namespace.apply(&deployment(replicas)?)?;
    rolled_out(&namespace).await?;
    Ok(namespace)
}

#[tokio::test]
async fn fifty_clients_that_keep_their_connections_lose_no_request_when_pods_go() -> Result<()> {
    let namespace = serving("keep-alive", 2).await?;
    let url = format!("{}/v1/completions", support::url(&namespace.name)?);
    let body = json!({"model": "smollm2", "prompt": "a", "max_tokens": 1});
    let clients = Clients::start(50, &url, &body)?;
    clients.two_rounds().await?;
    for replicas in [3, 1] {
        namespace.kubectl(&format!(
            "scale deployment support-model --replicas={replicas}"
        ))?;
        rolled_out(&namespace).await?;
        clients.two_rounds().await?;
    }
    namespace.kubectl("rollout restart deployment support-model")?;
    rolled_out(&namespace).await?;
    clients.two_rounds().await?;
    // Another operator, whose agents are not those that run: every pod is replaced.
    let install = concat!(env!("CARGO_MANIFEST_DIR"), "/install.sh");
    let before: Deployment = namespace.api().get("support-model").await?;
    command::run(
        install,
        &["--set", "agent.resources.requests.cpu=21m"],
        None,
    )?;
    let changed = wait::until("the agents to be replaced", 300, || async {
        let now: Deployment = namespace.api().get("support-model").await?;
        Ok((now.metadata.generation != before.metadata.generation).then_some(()))
    })
    .await;
    let rolled = rolled_out(&namespace).await;
    let rounds = clients.two_rounds().await;
    let (good, faults) = clients.finish().await?;
    command::run(install, &[], None)?;
    changed?;
    rolled?;
    rounds?;
    ensure!(
        faults.is_empty(),
        "{good} answers, {} faults: {:?}",
        faults.len(),
        &faults[..faults.len().min(5)]
    );
    println!("{good} answers, no fault");
    Ok(())
}

#[tokio::test]
async fn bodies_of_16_mb_are_answered_or_refused_and_end_no_agent() -> Result<()> {
    let namespace = serving("bodies", 1).await?;
    let url = format!("{}/v1/completions", support::url(&namespace.name)?);
    let head = r#"{"model":"smollm2","max_tokens":1,"prompt":["#;
    let numbers = ((16 << 20) - head.len() - 3) / 2;
    let body = format!("{head}{}1]}}", "1,".repeat(numbers));
    let client = reqwest::Client::builder()
        .timeout(std::time::Duration::from_mins(5))
        .build()?;
    let ask = || async {
        let response = client.post(&url).body(body.clone()).send().await?;
        anyhow::Ok(response.status().as_u16())
    };
    let asked = (0..20).map(|_| ask());
    let mut statuses = Vec::new();
    for status in futures::future::join_all(asked).await {
        statuses.push(status?);
    }
    // The model knows far fewer tokens, which is the client's fault; a body that waited too long is told to come again.
    ensure!(
        statuses
            .iter()
            .all(|status| matches!(status, 200 | 400 | 413 | 503)),
        "{statuses:?}"
    );
    let pods = rolled_out(&namespace).await?;
    let pod = pods.first().context("no pod")?;
    let restarts = agent_of(pod).map(|status| status.restart_count);
    ensure!(restarts == Some(0), "the agent restarted: {restarts:?}");
    let small: Value = json!({"model": "smollm2", "prompt": "a", "max_tokens": 1});
    let response = client.post(&url).json(&small).send().await?;
    ensure!(response.status() == 200, "{}", response.text().await?);
    Ok(())
}

#[tokio::test]
async fn a_pod_that_runs_as_root_gets_an_agent_that_does_not() -> Result<()> {
    let namespace = Namespace::create("root").await?;
    command::kubectl(&format!(
        "label --overwrite namespace {} pod-security.kubernetes.io/enforce=baseline",
        namespace.name
    ))?;
    job::tiny_world().await?;
    namespace.apply(&adapter())?;
    let root = deployment(1)?
        .replace("runAsNonRoot: true", "runAsNonRoot: false")
        .replace("runAsUser: 65532", "runAsUser: 0")
        .replace("runAsGroup: 65532", "runAsGroup: 0");
    namespace.apply(&root)?;
    let pods = rolled_out(&namespace).await?;
    let pod = pods.first().context("no pod")?;
    let name = pod.metadata.name.as_deref().context("no name")?;
    let status = namespace.kubectl(&format!(
        "exec {name} --container {} -- cat /proc/1/status",
        finetune_crds::names::AGENT_CONTAINER
    ))?;
    ensure!(
        status.contains("Uid:\t65532\t65532"),
        "the agent runs as another user: {status}"
    );
    Ok(())
}
