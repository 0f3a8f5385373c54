//! The policy against the confused deputy: who may create a FineTuneJob uses only those Secrets, ServiceAccounts and claims
//! that he may use himself.

use anyhow::{Result, ensure};
use serde_json::json;
use system_tests::cluster::Namespace;
use system_tests::command;
use system_tests::job::{merge, tiny};

/// Creates `manifest` as the ServiceAccount `author`, without storing it.
fn create_as(namespace: &Namespace, author: &str, manifest: &str) -> Result<Result<(), String>> {
    let user = format!("system:serviceaccount:{}:{author}", namespace.name);
    let arguments = [
        "create",
        "--dry-run=server",
        "--as",
        &user,
        "--namespace",
        &namespace.name,
        "--filename",
        "-",
    ];
    let output = command::output("kubectl", &arguments, Some(manifest))?;
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

/// A ServiceAccount with these rules.
fn author(namespace: &Namespace, name: &str, rules: serde_json::Value) -> Result<()> {
    namespace.kubectl(&format!("create serviceaccount {name}"))?;
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules});
    namespace.apply(&role.to_string())?;
    namespace.kubectl(&format!(
        "create rolebinding {name} --role={name} --serviceaccount={}:{name}",
        namespace.name
    ))?;
    Ok(())
}

#[tokio::test]
async fn an_author_without_rights_on_a_secret_cannot_have_it_mounted() -> Result<()> {
    let namespace = Namespace::create("policy").await?;
    let jobs =
        json!({"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["create"]});
    author(&namespace, "jobs-only", json!([jobs]))?;
    author(
        &namespace,
        "with-secret",
        json!([jobs, {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["finetune-s3"], "verbs": ["get"]}]),
    )?;
    author(
        &namespace,
        "with-pods",
        json!([jobs, {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}]),
    )?;
    let job = tiny("job", json!({})).to_string();
    let without = tiny(
        "job",
        json!({"baseModel": {"credentialsSecretRef": null}, "dataset": {"credentialsSecretRef": null}, "output": {"credentialsSecretRef": null}}),
    );
    let message = create_as(&namespace, "jobs-only", &job)?
        .err()
        .unwrap_or_else(|| "accepted".to_owned());
    ensure!(
        message.contains("spec.baseModel.credentialsSecretRef: you may use Secret finetune-s3"),
        "{message}"
    );
    // Each use of a Secret is asked for by itself.
    let mut going_on = without.clone();
    going_on["spec"]["initialAdapter"] =
        json!({"uri": "s3://models/a/", "credentialsSecretRef": {"name": "other"}});
    let going_on = going_on.to_string();
    let message = create_as(&namespace, "jobs-only", &going_on)?
        .err()
        .unwrap_or_else(|| "accepted".to_owned());
    ensure!(
        message.contains("spec.initialAdapter.credentialsSecretRef: you may use Secret other"),
        "{message}"
    );
    for (name, manifest) in [
        ("with-pods", going_on),
        ("jobs-only", without.to_string()),
        ("with-secret", job.clone()),
        ("with-pods", job),
    ] {
        let answer = create_as(&namespace, name, &manifest)?;
        ensure!(answer.is_ok(), "{name}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_author_cannot_borrow_a_stronger_service_account() -> Result<()> {
    let namespace = Namespace::create("policy").await?;
    let jobs =
        json!({"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["create"]});
    let secret = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]});
    author(&namespace, "weak", json!([jobs, secret]))?;
    author(
        &namespace,
        "trusted",
        json!([jobs, secret, {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["strong"], "verbs": ["impersonate"]}]),
    )?;
    let job = tiny(
        "job",
        json!({"placement": {"serviceAccountName": "strong"}}),
    )
    .to_string();
    let message = create_as(&namespace, "weak", &job)?
        .err()
        .unwrap_or_else(|| "accepted".to_owned());
    ensure!(
        message.contains("you may use ServiceAccount strong"),
        "{message}"
    );
    let answer = create_as(&namespace, "trusted", &job)?;
    ensure!(answer.is_ok(), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn an_author_without_rights_on_claims_cannot_read_what_lies_on_them() -> Result<()> {
    let namespace = Namespace::create("policy").await?;
    let jobs =
        json!({"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["create"]});
    let claims = |verbs: &[&str]| json!({"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": verbs});
    // Whoever may look at a claim may not yet look into it.
    author(
        &namespace,
        "viewer",
        json!([jobs, claims(&["get", "list"])]),
    )?;
    author(&namespace, "user", json!([jobs, claims(&["use"])]))?;
    author(
        &namespace,
        "with-pods",
        json!([jobs, {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}]),
    )?;
    let without_secrets = json!({"baseModel": {"credentialsSecretRef": null}, "dataset": {"credentialsSecretRef": null}, "output": {"credentialsSecretRef": null}});
    for changes in [
        json!({"placement": {"cacheClaimName": "downloads"}}),
        json!({"baseModel": {"uri": "pvc://models/a/"}}),
        json!({"dataset": {"train": [{"uri": "s3://data/a"}, {"uri": "pvc://data/a"}]}}),
        json!({"dataset": {"validation": {"fraction": null, "sources": [{"uri": "pvc://data/a"}]}}}),
        json!({"dataset": {"replay": {"sources": [{"uri": "pvc://data/a"}], "fraction": 0.1}}}),
        json!({"initialAdapter": {"uri": "pvc://adapters/a/"}}),
    ] {
        let mut job = tiny("job", without_secrets.clone());
        merge(&mut job["spec"], changes.clone());
        let job = job.to_string();
        let message = create_as(&namespace, "viewer", &job)?
            .err()
            .unwrap_or_else(|| "accepted".to_owned());
        ensure!(
            message.contains("you may use PersistentVolumeClaims"),
            "{changes}: {message}"
        );
        for name in ["user", "with-pods"] {
            let answer = create_as(&namespace, name, &job)?;
            ensure!(answer.is_ok(), "{name}, {changes}: {answer:?}");
        }
    }
    Ok(())
}
