//! Why no node takes a pod, and whose turn it is: the scheduler says what is wrong, and another node is not always the cure.
//! Pure.

use std::collections::BTreeSet;

use finetune_crds::uris;

use super::super::reasons::Cause;
use super::super::seen::PodSeen;
use super::super::validate::Validated;

/// The reason of a pod that no node takes.
const UNSCHEDULABLE: &str = "Unschedulable";

/// The cause, from what the scheduler says of the pod.
pub(super) fn cause(job: &Validated, pod: &PodSeen, said: &str) -> Cause {
    let said = said.trim_end_matches('.');
    let cure = if let Some(claim) = missing_claim(said) {
        format!(
            "there is no PersistentVolumeClaim `{claim}` in its namespace; create it, or correct {} in a new FineTuneJob",
            fields(job, Some(claim))
        )
    } else if said.contains("unbound immediate PersistentVolumeClaims") {
        format!(
            "{said}; see `kubectl describe pvc` for why, or name another claim in {} in a new FineTuneJob",
            fields(job, None)
        )
    } else {
        format!("{said}; add a node that fits or lower spec.placement in a new FineTuneJob")
    };
    Cause::new(
        UNSCHEDULABLE,
        format!("no node takes the pod {}: {cure}", pod.name),
    )
}

/// The claim that the scheduler did not find.
fn missing_claim(said: &str) -> Option<&str> {
    let (_, named) = said.split_once("persistentvolumeclaim \"")?;
    let (claim, rest) = named.split_once('"')?;
    rest.starts_with(" not found").then_some(claim)
}

/// The fields of the spec that name `claim`, or any claim at all. A webhook may have given the pod one that no field names.
fn fields(job: &Validated, claim: Option<&str>) -> String {
    let is_meant = |named: &str| claim.is_none_or(|claim| claim == named);
    let cache = job.spec.placement.cache_claim_name.as_deref();
    let sources = job
        .spec
        .sources()
        .filter(|(_, uri)| uris::claim_of(uri).is_some_and(is_meant));
    let fields: BTreeSet<&str> = sources
        .map(|(field, _)| field)
        .chain(
            cache
                .filter(|name| is_meant(name))
                .map(|_| "spec.placement.cacheClaimName"),
        )
        .collect();
    if fields.is_empty() {
        return "what names it".to_owned();
    }
    let fields: Vec<&str> = fields.into_iter().collect();
    fields.join(" and ")
}

#[cfg(test)]
mod tests {
    use finetune_crds::FineTuneJob;
    use finetune_crds::contract::Stage;
    use finetune_crds::fine_tune_job::Source;
    use rstest::rstest;

    use super::super::super::fixtures;
    use super::super::super::seen::ContainerSeen;
    use super::super::super::validate::validate;
    use super::*;

    fn on_claims(train: &[&str], cache: Option<&str>) -> FineTuneJob {
        let mut job = fixtures::job();
        let source = |uri: &&str| Source {
            uri: (*uri).to_owned(),
        };
        job.spec.dataset.train = train.iter().map(source).collect();
        job.spec.placement.cache_claim_name = cache.map(str::to_owned);
        job
    }

    fn message(job: &FineTuneJob, said: &str) -> String {
        let pod = fixtures::pod(Stage::Prepare, ContainerSeen::Unknown);
        let found = cause(&validate(job).unwrap(), &pod, said);
        assert_eq!(found.reason, "Unschedulable");
        found.message
    }

    const MISSING: &str =
        r#"0/1 nodes are available: persistentvolumeclaim "nope" not found. not found"#;

    #[rstest]
    #[case::named_by_a_uri(&["pvc://nope/a.csv", "pvc://nope/b.csv"], None, "spec.dataset.train[].uri")]
    #[case::named_as_the_cache(&["pvc://data/a.csv"], Some("nope"), "spec.placement.cacheClaimName")]
    #[case::named_by_both(&["pvc://nope/a.csv"], Some("nope"), "spec.dataset.train[].uri and spec.placement.cacheClaimName")]
    #[case::named_by_no_field(&["pvc://data/a.csv"], Some("cache"), "what names it")]
    fn a_claim_that_is_not_there_is_to_be_created_or_corrected_where_it_is_named(
        #[case] train: &[&str],
        #[case] cache: Option<&str>,
        #[case] field: &str,
    ) {
        assert_eq!(
            message(&on_claims(train, cache), MISSING),
            format!(
                "no node takes the pod pod-1: there is no PersistentVolumeClaim `nope` in its namespace; create it, or correct \
                 {field} in a new FineTuneJob"
            )
        );
    }

    #[test]
    fn a_claim_that_is_not_bound_is_to_be_looked_at() {
        let said =
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found";
        let message = message(&on_claims(&["pvc://data/a.csv"], None), said);
        assert!(
            message.contains("kubectl describe pvc")
                && message.contains("spec.dataset.train[].uri"),
            "{message}"
        );
        assert!(!message.contains("add a node"), "{message}");
    }

    #[test]
    fn a_pod_that_is_too_large_needs_another_node() {
        let said = "0/1 nodes are available: 1 Insufficient memory. No preemption victims found for incoming pod.";
        let message = message(&fixtures::job(), said);
        assert!(
            message.contains("Insufficient memory")
                && message.ends_with("incoming pod; add a node that fits or lower spec.placement in a new FineTuneJob"),
            "{message}"
        );
    }
}
