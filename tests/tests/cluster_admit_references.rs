//! The policy against the confused deputy: who may create a FineTuneJob has by it only what he may have himself: Secrets,
//! ServiceAccounts, claims, classes, taints, labels, and the Adapter that gets the result.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use system_tests::cluster::Namespace;
use system_tests::command;
use system_tests::job::{merge, tiny};

/// The line of `kubectl` for `author` in the namespace.
fn kubectl_as(
    namespace: &Namespace,
    author: &str,
    line: &str,
    manifest: Option<&str>,
) -> Result<Result<(), String>> {
    let user = format!("system:serviceaccount:{}:{author}", namespace.name);
    let mut arguments = vec!["--as", &user, "--namespace", &namespace.name];
    arguments.extend(line.split_whitespace());
    let output = command::output("kubectl", &arguments, manifest)?;
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

/// Creates `manifest` as the ServiceAccount `author`, without storing it.
fn create_as(namespace: &Namespace, author: &str, manifest: &str) -> Result<Result<(), String>> {
    let line = "create --dry-run=server --filename -";
    kubectl_as(namespace, author, line, Some(manifest))
}

/// Creates `manifest` as `author`, who must be refused with `words`.
fn refused(namespace: &Namespace, author: &str, manifest: &str, words: &str) -> Result<()> {
    let message = create_as(namespace, author, manifest)?
        .err()
        .unwrap_or_else(|| "accepted".to_owned());
    ensure!(message.contains(words), "{author}: {message}");
    Ok(())
}

/// Creates `manifest` as each of `authors`, who must be let through.
fn accepted(namespace: &Namespace, authors: &[&str], manifest: &str) -> Result<()> {
    for author in authors {
        let answer = create_as(namespace, author, manifest)?;
        ensure!(answer.is_ok(), "{author}: {answer:?}");
    }
    Ok(())
}

/// A ServiceAccount with these rules.
fn author(namespace: &Namespace, name: &str, rules: Value) -> Result<()> {
    namespace.kubectl(&format!("create serviceaccount {name}"))?;
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules});
    namespace.apply(&role.to_string())?;
    namespace.kubectl(&format!(
        "create rolebinding {name} --role={name} --serviceaccount={}:{name}",
        namespace.name
    ))?;
    Ok(())
}

/// A rule on resources of the core group.
fn core(resource: &str, verbs: &[&str], names: &[&str]) -> Value {
    rule("", resource, verbs, names)
}

fn rule(group: &str, resource: &str, verbs: &[&str], names: &[&str]) -> Value {
    let mut rule = json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    if !names.is_empty() {
        rule["resourceNames"] = json!(names);
    }
    rule
}

/// To create FineTuneJobs, and nothing else.
fn jobs() -> Value {
    rule("finetune.dev", "finetunejobs", &["create"], &[])
}

/// What every author needs beside: the right to write the result's Adapter, and to use the ServiceAccount of pods that name
/// none.
fn usual() -> [Value; 2] {
    [
        rule("finetune.dev", "adapters", &["create", "patch"], &[]),
        core("serviceaccounts", &["use"], &["default"]),
    ]
}

/// The rules of an author with the usual ones and these.
fn with(rules: &[Value]) -> Value {
    let mut all = vec![jobs()];
    all.extend(usual());
    all.extend(rules.iter().cloned());
    Value::Array(all)
}

/// The tiny job without a Secret, so that nothing but `changes` is asked for.
fn without_secrets(changes: Value) -> String {
    let mut job = tiny(
        "job",
        json!({"baseModel": {"credentialsSecretRef": null}, "dataset": {"credentialsSecretRef": null}, "output": {"credentialsSecretRef": null}}),
    );
    merge(&mut job["spec"], changes);
    job.to_string()
}

#[tokio::test]
async fn an_author_without_rights_on_a_secret_cannot_have_it_mounted() -> Result<()> {
    let namespace = Namespace::create("policy").await?;
    author(&namespace, "without", with(&[]))?;
    author(
        &namespace,
        "with-secret",
        with(&[core("secrets", &["get"], &["finetune-s3"])]),
    )?;
    author(
        &namespace,
        "with-pods",
        with(&[core("pods", &["create"], &[])]),
    )?;
    let job = tiny("job", json!({})).to_string();
    let words = "spec.baseModel.credentialsSecretRef: you may use Secret finetune-s3";
    refused(&namespace, "without", &job, words)?;
    // Each use of a Secret is asked for by itself.
    let going_on = without_secrets(
        json!({"initialAdapter": {"uri": "s3://models/a/", "credentialsSecretRef": {"name": "other"}}}),
    );
    let words = "spec.initialAdapter.credentialsSecretRef: you may use Secret other";
    refused(&namespace, "without", &going_on, words)?;
    accepted(&namespace, &["with-pods"], &going_on)?;
    accepted(&namespace, &["with-secret", "with-pods"], &job)?;
    accepted(&namespace, &["without"], &without_secrets(json!({})))?;
    Ok(())
}

#[tokio::test]
async fn an_author_cannot_borrow_a_stronger_service_account_nor_the_default_one() -> Result<()> {
    let namespace = Namespace::create("policy").await?;
    let adapters = || rule("finetune.dev", "adapters", &["create", "patch"], &[]);
    let accounts = |verb: &str, name: &str| core("serviceaccounts", &[verb], &[name]);
    author(&namespace, "weak", json!([jobs(), adapters()]))?;
    author(
        &namespace,
        "user",
        json!([jobs(), adapters(), accounts("use", "strong")]),
    )?;
    author(
        &namespace,
        "trusted",
        json!([jobs(), adapters(), accounts("impersonate", "strong")]),
    )?;
    author(
        &namespace,
        "of-default",
        json!([jobs(), adapters(), accounts("use", "default")]),
    )?;
    author(
        &namespace,
        "with-pods",
        json!([jobs(), adapters(), core("pods", &["create"], &[])]),
    )?;
    let strong = without_secrets(json!({"placement": {"serviceAccountName": "strong"}}));
    for name in ["weak", "of-default"] {
        refused(
            &namespace,
            name,
            &strong,
            "you may use ServiceAccount strong",
        )?;
    }
    accepted(&namespace, &["user", "trusted", "with-pods"], &strong)?;
    // A pod that names none has the cloud identity of `default`.
    let unnamed = without_secrets(json!({}));
    for name in ["weak", "user", "trusted"] {
        refused(
            &namespace,
            name,
            &unnamed,
            "you may use ServiceAccount default",
        )?;
    }
    accepted(&namespace, &["of-default", "with-pods"], &unnamed)?;
    Ok(())
}

#[tokio::test]
async fn an_author_with_the_clusters_role_edit_needs_nothing_else() -> Result<()> {
    let namespace = Namespace::create("policy").await?;
    namespace.kubectl("create serviceaccount editor")?;
    namespace.kubectl(&format!(
        "create rolebinding editor --clusterrole=edit --serviceaccount={}:editor",
        namespace.name
    ))?;
    let job = tiny(
        "job",
        json!({
            "baseModel": {"uri": "pvc://models/a/", "credentialsSecretRef": null},
            "placement": {
                "cacheClaimName": "downloads", "serviceAccountName": "strong", "priorityClassName": "high",
                "runtimeClassName": "nvidia", "tolerations": [{"operator": "Exists"}],
            },
        }),
    );
    accepted(&namespace, &["editor"], &job.to_string())
}

#[tokio::test]
async fn an_author_without_rights_on_claims_cannot_read_what_lies_on_them() -> Result<()> {
    let namespace = Namespace::create("policy").await?;
    let claims = |verbs: &[&str]| core("persistentvolumeclaims", verbs, &[]);
    // Whoever may look at a claim may not yet look into it.
    author(&namespace, "viewer", with(&[claims(&["get", "list"])]))?;
    author(&namespace, "user", with(&[claims(&["use"])]))?;
    author(
        &namespace,
        "with-pods",
        with(&[core("pods", &["create"], &[])]),
    )?;
    for changes in [
        json!({"placement": {"cacheClaimName": "downloads"}}),
        json!({"baseModel": {"uri": "pvc://models/a/"}}),
        json!({"dataset": {"train": [{"uri": "s3://data/a"}, {"uri": "pvc://data/a"}]}}),
        json!({"dataset": {"validation": {"fraction": null, "sources": [{"uri": "pvc://data/a"}]}}}),
        json!({"dataset": {"replay": {"sources": [{"uri": "pvc://data/a"}], "fraction": 0.1}}}),
        json!({"initialAdapter": {"uri": "pvc://adapters/a/"}}),
    ] {
        let job = without_secrets(changes);
        refused(
            &namespace,
            "viewer",
            &job,
            "you may use PersistentVolumeClaims",
        )?;
        accepted(&namespace, &["user", "with-pods"], &job)?;
    }
    Ok(())
}

#[tokio::test]
async fn an_author_takes_no_priority_and_no_runtime_that_he_was_not_given() -> Result<()> {
    let namespace = Namespace::create("policy").await?;
    author(&namespace, "without", with(&[]))?;
    author(
        &namespace,
        "user",
        with(&[
            rule(
                "scheduling.k8s.io",
                "priorityclasses",
                &["use"],
                &["high", "system-node-critical"],
            ),
            rule("node.k8s.io", "runtimeclasses", &["use"], &["nvidia"]),
        ]),
    )?;
    author(
        &namespace,
        "with-pods",
        with(&[core("pods", &["create"], &[])]),
    )?;
    for (changes, words) in [
        (
            json!({"priorityClassName": "high"}),
            "spec.placement.priorityClassName: you may use PriorityClass high",
        ),
        (
            json!({"runtimeClassName": "nvidia"}),
            "spec.placement.runtimeClassName: you may use RuntimeClass nvidia",
        ),
    ] {
        let job = without_secrets(json!({ "placement": changes }));
        refused(&namespace, "without", &job, words)?;
        accepted(&namespace, &["user", "with-pods"], &job)?;
    }
    let other = without_secrets(json!({"placement": {"priorityClassName": "higher"}}));
    refused(&namespace, "user", &other, "PriorityClass higher")?;
    // What the cluster itself runs on must not make room for a training run, whoever asks.
    let critical =
        without_secrets(json!({"placement": {"priorityClassName": "system-node-critical"}}));
    for name in ["without", "user", "with-pods"] {
        refused(
            &namespace,
            name,
            &critical,
            "classes that begin with system-",
        )?;
    }
    Ok(())
}

#[tokio::test]
async fn an_author_without_rights_on_pods_tolerates_only_taints_that_he_names_and_that_are_not_the_clusters()
-> Result<()> {
    let namespace = Namespace::create("policy").await?;
    author(&namespace, "without", with(&[]))?;
    author(
        &namespace,
        "with-pods",
        with(&[core("pods", &["create"], &[])]),
    )?;
    let ordinary = json!({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"});
    let job =
        |tolerations: Value| without_secrets(json!({"placement": {"tolerations": tolerations}}));
    for reserved in [
        json!({"operator": "Exists"}),
        json!({"operator": "Exists", "effect": "NoExecute"}),
        json!({"key": "", "operator": "Exists"}),
        json!({"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}),
        json!({"key": "node-role.kubernetes.io/master", "operator": "Equal", "value": "true"}),
        json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists"}),
        json!({"key": "node.cloudprovider.kubernetes.io/uninitialized", "operator": "Exists"}),
    ] {
        let job = job(json!([ordinary, reserved]));
        refused(&namespace, "without", &job, "spec.placement.tolerations")?;
        accepted(&namespace, &["with-pods"], &job)?;
    }
    let own = json!({"key": "example.com/kubernetes.io", "operator": "Equal", "value": "x"});
    accepted(&namespace, &["without"], &job(json!([ordinary, own])))
}

#[tokio::test]
async fn an_author_cannot_have_an_adapter_written_that_he_may_not_write() -> Result<()> {
    let namespace = Namespace::create("policy").await?;
    let account = || core("serviceaccounts", &["use"], &["default"]);
    let adapters = |verbs: &[&str], names: &[&str]| rule("finetune.dev", "adapters", verbs, names);
    author(&namespace, "jobs-only", json!([jobs(), account()]))?;
    author(
        &namespace,
        "creator",
        json!([jobs(), account(), adapters(&["create"], &[])]),
    )?;
    author(
        &namespace,
        "of-support",
        json!([
            jobs(),
            account(),
            adapters(&["create"], &[]),
            adapters(&["patch"], &["support"])
        ]),
    )?;
    // Who may start pods may not yet change what is served.
    author(
        &namespace,
        "with-pods",
        json!([jobs(), core("pods", &["create"], &[])]),
    )?;
    author(&namespace, "usual", with(&[]))?;
    let support = without_secrets(json!({"output": {"adapter": {"name": "support"}}}));
    let production = without_secrets(json!({"output": {"adapter": {"name": "support-prod"}}}));
    let of_the_job = without_secrets(json!({}));
    for (name, job, adapter) in [
        ("jobs-only", &support, "support"),
        ("jobs-only", &of_the_job, "job"),
        ("creator", &support, "support"),
        ("of-support", &production, "support-prod"),
        ("of-support", &of_the_job, "job"),
        ("with-pods", &production, "support-prod"),
    ] {
        let words = format!("spec.output.adapter: you may have Adapter {adapter} written");
        refused(&namespace, name, job, &words)?;
    }
    // A null is no method: the API server takes it for absent, and so must the question about the Adapter.
    let mut with_null: Value = serde_json::from_str(&production)?;
    with_null["spec"]["method"]["full"] = Value::Null;
    let words = "spec.output.adapter: you may have Adapter support-prod written";
    refused(&namespace, "jobs-only", &with_null.to_string(), words)?;
    for field in [
        "serviceAccountName",
        "priorityClassName",
        "runtimeClassName",
    ] {
        with_null["spec"]["placement"][field] = Value::Null;
    }
    accepted(&namespace, &["usual"], &with_null.to_string())?;
    accepted(&namespace, &["of-support", "usual"], &support)?;
    accepted(&namespace, &["usual"], &production)?;
    // Where no Adapter is written, none is asked for.
    for changes in [
        json!({"dryRun": true}),
        json!({"method": {"lora": null, "full": {}}}),
    ] {
        accepted(&namespace, &["jobs-only"], &without_secrets(changes))?;
    }
    Ok(())
}

/// The tiny job with these labels, on which nothing else is asked for.
fn labelled(labels: Value) -> String {
    let mut job = tiny(
        "job",
        json!({"baseModel": {"credentialsSecretRef": null}, "dataset": {"credentialsSecretRef": null}, "output": {"credentialsSecretRef": null}}),
    );
    job["metadata"]["labels"] = labels;
    job.to_string()
}

#[tokio::test]
async fn an_author_without_rights_on_pods_gives_them_no_label_that_something_else_may_select_by()
-> Result<()> {
    let namespace = Namespace::create("policy").await?;
    author(&namespace, "without", with(&[]))?;
    author(
        &namespace,
        "with-pods",
        with(&[core("pods", &["create"], &[])]),
    )?;
    for (key, value) in [
        ("app", "payments"),
        ("app.kubernetes.io/name", "payments"),
        ("sidecar.istio.io/inject", "false"),
        ("kueue.x-k8s.io/priority-class", "high"),
        ("evil.finetune.dev/x", "x"),
    ] {
        let job = labelled(json!({"kueue.x-k8s.io/queue-name": "gpu", key: value}));
        let words = format!("metadata.labels: you may set {key} on a FineTuneJob");
        refused(&namespace, "without", &job, &words)?;
        accepted(&namespace, &["with-pods"], &job)?;
    }
    // All that are refused are named, and the cures with them.
    let several = labelled(json!({"app": "payments", "team": "a"}));
    for words in [
        "app",
        "team",
        "create pods in namespace",
        "admissionPolicy.allowedLabels",
    ] {
        refused(&namespace, "without", &several, words)?;
    }
    // What the chart allows, and what stays on the job.
    let usual = labelled(json!({
        "kueue.x-k8s.io/queue-name": "gpu",
        "azure.workload.identity/use": "true",
        "app.kubernetes.io/instance": "release",
        "app.kubernetes.io/managed-by": "Helm",
        "helm.sh/chart": "jobs-1",
        "argocd.argoproj.io/instance": "jobs",
        "kustomize.toolkit.fluxcd.io/name": "jobs",
        "finetune.dev/stage": "train",
    }));
    accepted(&namespace, &["without"], &usual)
}

#[tokio::test]
async fn only_labels_that_are_new_or_changed_ask_for_a_right() -> Result<()> {
    let namespace = Namespace::create("policy").await?;
    author(
        &namespace,
        "labeller",
        json!([rule("finetune.dev", "finetunejobs", &["get", "patch"], &[])]),
    )?;
    author(
        &namespace,
        "with-pods",
        json!([
            rule("finetune.dev", "finetunejobs", &["get", "patch"], &[]),
            core("pods", &["create"], &[])
        ]),
    )?;
    let mut job: Value = serde_json::from_str(&labelled(json!({"app": "payments", "tier": "b"})))?;
    job["spec"]["dryRun"] = true.into();
    namespace.apply(&job.to_string())?;
    let label = |author: &str, change: &str| {
        let line = format!("label --overwrite finetunejobs/job {change}");
        kubectl_as(&namespace, author, &line, None)
    };
    for (change, key) in [
        ("app=ledger", "app"),
        ("sidecar.istio.io/inject=false", "sidecar.istio.io/inject"),
    ] {
        let message = label("labeller", change)?.err().unwrap_or_default();
        let words = format!("metadata.labels: you may set {key} on a FineTuneJob");
        ensure!(message.contains(&words), "{change}: {message}");
    }
    // What is there already locks nobody out, and a label may be taken away.
    for change in ["kueue.x-k8s.io/queue-name=gpu", "tier-"] {
        let answer = label("labeller", change)?;
        ensure!(answer.is_ok(), "{change}: {answer:?}");
    }
    let answer = label("with-pods", "app=ledger")?;
    ensure!(answer.is_ok(), "{answer:?}");
    // The operator writes the status of a job whatever its labels are.
    system_tests::wait::object(
        &namespace.api::<finetune_crds::FineTuneJob>(),
        "job",
        "a phase",
        60,
        |job| {
            job.status
                .as_ref()
                .is_some_and(|status| status.phase.is_some())
        },
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_label_is_changed_without_rights_on_what_the_job_names() -> Result<()> {
    let namespace = Namespace::create("policy").await?;
    author(
        &namespace,
        "labeller",
        json!([rule("finetune.dev", "finetunejobs", &["get", "patch"], &[])]),
    )?;
    let changes = json!({
        "baseModel": {"uri": "pvc://models/a/", "credentialsSecretRef": null},
        "placement": {"serviceAccountName": "strong", "cacheClaimName": "downloads"},
        "dryRun": true,
    });
    namespace.apply(&tiny("job", changes).to_string())?;
    let label = "label finetunejobs/job kueue.x-k8s.io/queue-name=a";
    let answer = kubectl_as(&namespace, "labeller", label, None)?;
    ensure!(answer.is_ok(), "{answer:?}");
    Ok(())
}
