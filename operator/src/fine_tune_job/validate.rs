//! What the schema could not refuse. Pure: a fault is data for `plan`, never an error.
//!
//! CEL and the schema's bounds come first; what stands here either needs two fields of different kinds or guards against
//! an object that was stored under an older schema.

use std::collections::BTreeMap;

use finetune_crds::contract::layout;
use finetune_crds::fine_tune_job::Placement;
use finetune_crds::{FineTuneJob, FineTuneJobSpec, uris};
use jiff::Timestamp;
use kube::ResourceExt;

/// A job whose spec can be acted on. From here on nobody looks at what is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Its labels, as its user wrote them.
    pub labels: BTreeMap<String, String>,
    /// The Adapter that gets the result; none with method `full`.
    pub adapter: Option<String>,
    /// The folder that is kept: plan, metrics, outcome.
    pub job_uri: String,
    /// The folder that passes: prepared data, attempts.
    pub work_uri: String,
    /// The rest.
    pub spec: FineTuneJobSpec,
}

/// Either a job to act on, or all that is wrong with it.
pub type Verdict = Result<Validated, Vec<String>>;

/// Looks the spec through. Every fault names the field, its value and what is expected.
pub fn validate(job: &FineTuneJob) -> Verdict {
    let name = job.name_any();
    let mut faults = Vec::new();
    if name.len() > 52 || !is_dns_label(&name) {
        faults.push(format!(
            "metadata.name is `{name}`, expected at most 52 characters of a-z, 0-9 and -, beginning with a letter"
        ));
    }
    let spec = &job.spec;
    let methods = [
        spec.method.full.is_some(),
        spec.method.lora.is_some(),
        spec.method.qlora.is_some(),
    ];
    if methods.iter().filter(|set| **set).count() != 1 {
        faults.push(
            "spec.method is none or several of full, lora and qlora, expected exactly one"
                .to_owned(),
        );
    }
    if spec.method.full.is_some() && spec.initial_adapter.is_some() {
        faults.push(
            "spec.initialAdapter is set with method full, which trains no adapter: remove it, or use lora or qlora"
                .to_owned(),
        );
    }
    let output_uri = spec
        .output
        .as_ref()
        .and_then(|output| output.uri.as_deref());
    let output_uri = output_uri.unwrap_or_default();
    if !uris::has_scheme(output_uri, &uris::WRITABLE) {
        faults.push(format!(
            "spec.output.uri is `{output_uri}`, expected a folder for the result: {}",
            uris::list(&uris::WRITABLE)
        ));
    }
    for (field, uri) in spec.sources() {
        let schemes: &[&str] = if field == "spec.initialAdapter.uri" {
            &uris::READABLE_FOLDERS
        } else {
            &uris::READABLE
        };
        if !uris::has_scheme(uri, schemes) {
            faults.push(format!(
                "{field} is `{uri}`, expected a URI that begins with {}: a pod sees no other files",
                uris::list(schemes)
            ));
        }
    }
    let resources = &spec.placement.resources;
    for (key, request) in &resources.requests {
        if let Some(limit) = resources.limits.get(key)
            && let (Some(requested), Some(limited)) = (quantity(request), quantity(limit))
            && requested > limited
        {
            faults.push(format!(
                "spec.placement.resources.requests.{key} is {request}, expected at most its limit {limit}"
            ));
        }
    }
    // What was begun under an earlier version goes on.
    if job
        .status
        .as_ref()
        .is_none_or(|status| status.phase.is_none())
    {
        faults.extend(devices_without_use(&spec.placement));
    }
    let (Some(namespace), Some(uid)) = (job.namespace(), job.uid()) else {
        faults.push(
            "metadata has no namespace or no uid, expected an object of the API server".to_owned(),
        );
        return Err(faults);
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Validated {
        adapter: spec.adapter_name(&name).map(str::to_owned),
        job_uri: layout::job_folder(output_uri, &uid),
        work_uri: layout::work_folder(output_uri, &uid),
        labels: job.labels().clone(),
        created: job.metadata.creation_timestamp.as_ref().map(|time| time.0),
        spec: spec.clone(),
        name,
        namespace,
        uid,
    })
}

/// Devices that this version's trainer can compute on: none, it computes on the processor.
fn computes_on(_resource: &str) -> bool {
    false
}

/// What is asked for of accelerators that the trainer would leave idle, while others wait for them.
fn devices_without_use(placement: &Placement) -> Vec<String> {
    const CURE: &str = "the trainer of this version computes on the CPU: remove it";
    let resources = &placement.resources;
    let mut faults: Vec<String> = [
        ("limits", &resources.limits),
        ("requests", &resources.requests),
    ]
    .into_iter()
    .flat_map(|(part, amounts)| amounts.iter().map(move |(key, amount)| (part, key, amount)))
    .filter(|(_, key, _)| is_accelerator(key) && !computes_on(key))
    .map(|(part, key, amount)| {
        format!(
            "spec.placement.resources.{part} has `{key}: {amount}`, expected no accelerator: {CURE}"
        )
    })
    .collect();
    let runtime = placement.runtime_class_name.as_deref().unwrap_or_default();
    if runtime == "nvidia" && !computes_on("nvidia.com/gpu") {
        faults.push(format!(
            "spec.placement.runtimeClassName is `{runtime}`, expected one without an accelerator: {CURE}"
        ));
    }
    faults
}

/// Whether a resource is a device that computes: those of the vendors' device plugins, shares and partitions of them too.
fn is_accelerator(resource: &str) -> bool {
    const DOMAINS: [&str; 10] = [
        "nvidia.com",
        "amd.com",
        "gpu.intel.com",
        "habana.ai",
        "google.com",
        "cloud-tpus.google.com",
        "aws.amazon.com",
        "huawei.com",
        "cambricon.com",
        "furiosa.ai",
    ];
    const NETWORKS: [&str; 3] = ["rdma", "nic", "efa"];
    let (domain, name) = resource.split_once('/').unwrap_or_default();
    DOMAINS.contains(&domain) && !NETWORKS.iter().any(|network| name.contains(network))
}

fn is_dns_label(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// A Kubernetes quantity as a number; `None` if it is none.
fn quantity(text: &str) -> Option<f64> {
    // As Kubernetes reads it, `1E` is a suffix and `1E3` an exponent.
    if let Some(number) = text.parse::<f64>().ok().filter(|number| number.is_finite()) {
        return Some(number);
    }
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::fixtures::job;
    use super::*;

    #[test]
    fn a_good_job_knows_its_folders_and_its_adapter() {
        let validated = validate(&job()).unwrap();
        assert_eq!(validated.job_uri, "s3://adapters/.finetune/jobs/uid-1/");
        assert_eq!(validated.work_uri, "s3://adapters/.finetune/work/uid-1/");
        assert_eq!(validated.adapter.as_deref(), Some("support"));
    }

    #[rstest]
    #[case("gs://results/a")]
    #[case("az://results/a")]
    fn results_may_go_to_any_bucket(#[case] uri: &str) {
        let mut job = job();
        job.spec.output.as_mut().unwrap().uri = Some(uri.into());
        let validated = validate(&job).unwrap();
        assert_eq!(validated.job_uri, format!("{uri}/.finetune/jobs/uid-1/"));
    }

    #[test]
    fn a_stored_output_uri_longer_than_new_ones_may_be_still_runs() {
        let mut job = job();
        let long = format!("s3://adapters/{}", "a".repeat(900));
        job.spec.output.as_mut().unwrap().uri = Some(long.clone());
        assert!(validate(&job).unwrap().job_uri.starts_with(&long));
    }

    #[rstest]
    #[case::limits("nvidia.com/gpu", "limits has `nvidia.com/gpu: 1`")]
    #[case::a_part_of_one("nvidia.com/mig-1g.5gb", "limits has `nvidia.com/mig-1g.5gb: 1`")]
    #[case::amd("amd.com/gpu", "limits has `amd.com/gpu: 1`")]
    #[case::intel("gpu.intel.com/xe", "limits has `gpu.intel.com/xe: 1`")]
    fn an_accelerator_that_would_stand_idle_is_refused_with_the_reason(
        #[case] resource: &str,
        #[case] expected: &str,
    ) {
        let mut job = job();
        let limits = &mut job.spec.placement.resources.limits;
        limits.insert(resource.into(), "1".into());
        let faults = validate(&job).unwrap_err();
        assert!(
            faults[0].contains(expected) && faults[0].contains("computes on the CPU: remove it"),
            "{faults:?}"
        );
        // One that an earlier version let in goes on.
        job.status = Some(finetune_crds::FineTuneJobStatus {
            phase: Some(finetune_crds::fine_tune_job::JobPhase::Training),
            ..Default::default()
        });
        assert!(validate(&job).is_ok());
    }

    #[test]
    fn the_runtime_of_an_accelerator_is_refused_and_a_network_device_is_not() {
        let mut job = job();
        job.spec.placement.runtime_class_name = Some("nvidia".into());
        assert!(validate(&job).unwrap_err()[0].contains("runtimeClassName is `nvidia`"));
        job.spec.placement.runtime_class_name = Some("gvisor".into());
        let limits = &mut job.spec.placement.resources.limits;
        limits.insert("nvidia.com/rdma_shared".into(), "1".into());
        assert!(validate(&job).is_ok());
    }

    #[rstest]
    #[case("1E3", 1000.0)]
    #[case("1E", 1e18)]
    #[case("0.5", 0.5)]
    #[case("500m", 0.5)]
    #[case("100u", 1e-4)]
    fn quantities_are_read_as_kubernetes_does(#[case] text: &str, #[case] expected: f64) {
        let read = quantity(text).unwrap();
        assert!((read - expected).abs() <= expected * 1e-12, "{read}");
    }

    #[rstest]
    #[case::no_output(|job: &mut FineTuneJob| job.spec.output = None, "spec.output.uri")]
    #[case::two_methods(|job: &mut FineTuneJob| job.spec.method.full = Some(finetune_crds::fine_tune_job::Full {}), "spec.method")]
    #[case::no_method(|job: &mut FineTuneJob| job.spec.method.qlora = None, "spec.method")]
    #[case::a_local_file(|job: &mut FineTuneJob| job.spec.base_model.uri = "file:///base".into(), "spec.baseModel.uri is `file:///base`")]
    #[case::a_local_adapter(
        |job: &mut FineTuneJob| job.spec.initial_adapter = Some(finetune_crds::fine_tune_job::InitialAdapter { uri: "file:///a/".into(), credentials_secret_ref: None }),
        "spec.initialAdapter.uri is `file:///a/`"
    )]
    #[case::an_adapter_that_is_one_file(
        |job: &mut FineTuneJob| job.spec.initial_adapter = Some(finetune_crds::fine_tune_job::InitialAdapter { uri: "https://host/a".into(), credentials_secret_ref: None }),
        "spec.initialAdapter.uri is `https://host/a`"
    )]
    #[case::validation_on_the_node(
        |job: &mut FineTuneJob| {
            let source = finetune_crds::fine_tune_job::Source { uri: "file:///rows".into() };
            job.spec.dataset.validation = Some(finetune_crds::fine_tune_job::Validation { sources: Some(vec![source]), ..Default::default() });
        },
        "spec.dataset.validation.sources[].uri is `file:///rows`"
    )]
    #[case::a_result_on_a_claim(
        |job: &mut FineTuneJob| job.spec.output.as_mut().unwrap().uri = Some("pvc://results/".into()),
        "spec.output.uri is `pvc://results/`, expected a folder for the result: s3://, gs:// or az://"
    )]
    #[case::a_long_name(|job: &mut FineTuneJob| job.metadata.name = Some("a".repeat(53)), "metadata.name")]
    #[case::more_requested_than_allowed(
        |job: &mut FineTuneJob| {
            job.spec.placement.resources.requests.insert("memory".into(), "4Gi".into());
            job.spec.placement.resources.limits.insert("memory".into(), "4095Mi".into());
        },
        "spec.placement.resources.requests.memory is 4Gi, expected at most its limit 4095Mi"
    )]
    fn names_the_field_that_is_wrong(#[case] spoil: fn(&mut FineTuneJob), #[case] expected: &str) {
        let mut job = job();
        spoil(&mut job);
        let faults = validate(&job).unwrap_err();
        assert!(
            faults.iter().any(|fault| fault.contains(expected)),
            "{faults:?}"
        );
    }
}
