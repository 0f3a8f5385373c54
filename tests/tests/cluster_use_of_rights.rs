//! What the operator's roles allow and what it asks of the API server are the same. Named to run after all other tests: the API
//! server's audit log must have seen everything that the operator does.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::cluster::OPERATOR_NAMESPACE;
use system_tests::command;

/// One verb on one resource, as `verb group/resource`.
type Right = String;

/// Rights for what happens too seldom for every run of the tests: why a Job has no pod is asked only of a Job without one, a
/// leader that finds no Lease makes one, and an Event that comes again and again is patched.
const SELDOM: [&str; 6] = [
    // Where the API server does not stream lists: before Kubernetes 1.34.
    "list batch/jobs",
    "list /configmaps",
    // Of a node that is lost, after minutes.
    "delete /pods",
    "list /events",
    "create coordination.k8s.io/leases",
    "patch events.k8s.io/events",
];

/// The audit logs of the cluster under test: the present one, and those that it grew out of.
fn audit_logs() -> Result<Vec<PathBuf>> {
    let kubeconfig = std::env::var("KUBECONFIG").context("KUBECONFIG is not set")?;
    let state = PathBuf::from(&kubeconfig);
    let folder = state
        .parent()
        .context("KUBECONFIG names no folder")?
        .join("log");
    let mut logs = Vec::new();
    let entries = std::fs::read_dir(&folder);
    for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with("audit") && path.extension().is_some_and(|extension| extension == "log")
        {
            logs.push(path);
        }
    }
    Ok(logs)
}

/// What the operator asked for, and what of it was refused for want of a right.
fn asked() -> Result<(BTreeSet<Right>, BTreeSet<Right>)> {
    let user = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:finetune-operator");
    let (mut asked, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let mut lines = Vec::new();
    for path in audit_logs()? {
        let file = std::fs::File::open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        lines.push(BufReader::new(file).lines());
    }
    for line in lines.into_iter().flatten() {
        let line = line?;
        if !line.contains(&user) {
            continue;
        }
        let event: Value = serde_json::from_str(&line)?;
        let object = &event["objectRef"];
        if event["user"]["username"] != user.as_str() || !object["resource"].is_string() {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let subresource = match object["subresource"].as_str() {
            Some(name) => format!("/{name}"),
            None => String::new(),
        };
        let right = format!(
            "{} {}/{}{subresource}",
            text(&event["verb"]),
            text(&object["apiGroup"]),
            text(&object["resource"])
        );
        // An uninstall takes the roles away before the last replica has ended: it cannot release its Lease then.
        let is_lease = object["resource"] == "leases";
        if event["annotations"]["authorization.k8s.io/decision"] == "forbid" && !is_lease {
            refused.insert(right.clone());
        }
        // What an apply makes anew is also authorised as created.
        if let Some(object) = right.strip_prefix("patch ") {
            asked.insert(format!("create {object}"));
        }
        asked.insert(right);
    }
    Ok((asked, refused))
}

/// What its roles allow.
fn granted() -> Result<BTreeSet<Right>> {
    let mut granted = BTreeSet::new();
    for line in [
        "get clusterrole finetune-operator --output json".to_owned(),
        format!("get role finetune-operator --namespace {OPERATOR_NAMESPACE} --output json"),
    ] {
        let role: Value = serde_json::from_str(&command::kubectl(&line)?)?;
        let list = |value: &Value| -> Vec<String> {
            let items = value.as_array().into_iter().flatten();
            items
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect()
        };
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in list(&rule["apiGroups"]) {
                for resource in list(&rule["resources"]) {
                    for verb in list(&rule["verbs"]) {
                        granted.insert(format!("{verb} {group}/{resource}"));
                    }
                }
            }
        }
    }
    Ok(granted)
}

#[test]
fn the_operator_asks_for_all_that_it_may_and_for_nothing_else() -> Result<()> {
    let (granted, (asked, refused)) = (granted()?, asked()?);
    ensure!(
        !asked.is_empty(),
        "the audit log knows nothing of the operator"
    );
    ensure!(refused.is_empty(), "refused: {refused:?}");
    let unused: Vec<_> = granted
        .difference(&asked)
        .filter(|right| !SELDOM.contains(&right.as_str()))
        .collect();
    // Only a run of all tests has seen everything: one of this file alone proves less.
    let has_seen_everything =
        asked.contains("delete batch/jobs") && asked.contains("patch apps/deployments");
    ensure!(
        !has_seen_everything || unused.is_empty(),
        "never used: {unused:?}"
    );
    Ok(())
}
