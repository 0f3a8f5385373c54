//! Which of a user's labels go onto children, and what we add. Never passes on a label by which another tool would take a
//! child for its own. What is passed on is asked for by the chart's `label-policy.yaml`.

use std::collections::BTreeMap;

use finetune_crds::contract::Stage;
use finetune_crds::names::label;

/// Labels that stay on the FineTuneJob: they say who manages *that* object, or Kubernetes writes them itself.
const OWN_KEYS: [&str; 6] = [
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "job-name",
    "controller-uid",
    "helm.sh/chart",
    "heritage",
];
const OWN_PREFIXES: [&str; 5] = [
    "finetune.dev",
    "argocd.argoproj.io",
    "helm.sh",
    "batch.kubernetes.io",
    "meta.helm.sh",
];
const OWN_SUFFIX: &str = "toolkit.fluxcd.io";
/// Labels that a queue reads on the Job that it admits.
const QUEUE_PREFIX: &str = "kueue.x-k8s.io";

/// The word for a stage, in labels and names.
pub const fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Prepare => "prepare",
        Stage::Train => "train",
    }
}

/// The labels of a pod, and of its Job but for the queue's.
pub fn for_pod(
    user: &BTreeMap<String, String>,
    job: &str,
    stage: Stage,
) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = user
        .iter()
        .filter(|(key, _)| is_passed_on(key) && !is_queue(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.extend(ours(job));
    labels.insert(label::STAGE.to_owned(), stage_name(stage).to_owned());
    labels
}

/// The queue's labels: only the Job that needs GPUs queues.
pub fn for_queue(user: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    user.iter()
        .filter(|(key, _)| is_queue(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The labels of every child.
pub fn ours(job: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (label::FINE_TUNE_JOB.to_owned(), job.to_owned()),
        (
            label::MANAGED_BY.to_owned(),
            label::MANAGED_BY_VALUE.to_owned(),
        ),
        (label::COMPONENT.to_owned(), "trainer".to_owned()),
    ])
}

fn prefix(key: &str) -> &str {
    key.split_once('/').map_or("", |(prefix, _)| prefix)
}

fn is_queue(key: &str) -> bool {
    prefix(key) == QUEUE_PREFIX
}

fn is_passed_on(key: &str) -> bool {
    !OWN_KEYS.contains(&key)
        && !OWN_PREFIXES.contains(&prefix(key))
        && !prefix(key).ends_with(OWN_SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_labels_are_passed_on_but_for_those_of_tools_and_queues() {
        let user = [
            ("team", "support"),
            ("app.kubernetes.io/name", "support"),
            ("app.kubernetes.io/instance", "release"),
            ("app.kubernetes.io/managed-by", "Helm"),
            ("argocd.argoproj.io/instance", "a"),
            ("kustomize.toolkit.fluxcd.io/name", "a"),
            ("helm.sh/chart", "a"),
            ("finetune.dev/stage", "forged"),
            ("job-name", "forged"),
            ("kueue.x-k8s.io/queue-name", "gpu"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let user = BTreeMap::from(user);
        let labels = for_pod(&user, "support", Stage::Train);
        let keys: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            keys,
            [
                "app.kubernetes.io/component=trainer",
                "app.kubernetes.io/managed-by=finetune-operator",
                "app.kubernetes.io/name=support",
                "finetune.dev/fine-tune-job=support",
                "finetune.dev/stage=train",
                "team=support",
            ]
        );
        assert_eq!(for_queue(&user).len(), 1);
    }

    #[test]
    fn the_charts_policy_asks_for_every_label_that_is_passed_on_and_no_other() {
        const POLICY: &str =
            include_str!("../../../../charts/finetune-operator/templates/label-policy.yaml");
        let list = |name: &str| {
            let (_, rest) = POLICY.split_once(&format!("- name: {name}\n")).unwrap();
            let (_, rest) = rest.split_once('[').unwrap();
            let (list, _) = rest.split_once(']').unwrap();
            list.split(", ")
                .map(|word| word.trim_matches('\'').to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(list("keysNotCopied"), OWN_KEYS);
        assert_eq!(
            list("prefixesNotCopied"),
            OWN_PREFIXES.map(|prefix| format!("{prefix}/"))
        );
        assert!(POLICY.contains(&format!("!key.contains('{OWN_SUFFIX}/')")));
    }
}
