//! The pod in which the trainer works. It fits the restricted Pod Security level, has no Kubernetes token, and gets a
//! Secret only by the name that its namespace's user wrote.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};

use finetune_crds::contract::Stage;
use finetune_crds::fine_tune_job::{Resources, TolerationOperator};
use finetune_crds::names::{CLAIMS_VARIABLE, TRAINER_CONTAINER, path, port};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec,
    ResourceRequirements, SeccompProfile, SecurityContext, Toleration, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::validate::Validated;
use super::labels;
use super::volumes::{self, TMP};
use crate::settings::OperatorSettings;

/// The user and group that the trainer's image is made for.
const USER: i64 = 65532;
/// The architecture of this build, as nodes call it. Operator and trainer of one release are built for the same.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};
/// Where the outcome is left for the kubelet.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// The pod template of a stage.
pub fn template(job: &Validated, settings: &OperatorSettings, stage: Stage) -> PodTemplateSpec {
    let placement = &job.spec.placement;
    let mounted = volumes::of(job);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels::for_pod(&job.labels, &job.name, stage)),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            restart_policy: Some("Never".to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            service_account_name: placement.service_account_name.clone(),
            termination_grace_period_seconds: Some(placement.termination_grace_period_seconds),
            priority_class_name: placement.priority_class_name.clone(),
            runtime_class_name: placement.runtime_class_name.clone(),
            node_selector: Some(node_selector(&placement.node_selector)),
            tolerations: (!placement.tolerations.is_empty()).then(|| tolerations(job)),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            containers: vec![container(job, settings, stage, mounted.mounts)],
            volumes: Some(mounted.volumes),
            ..PodSpec::default()
        }),
    }
}

/// What the nodes must be. Images are made for one system and one architecture, those of the operator's own image: on another
/// node the kubelet could only say `exec format error`. What the user asks for comes first.
fn node_selector(wanted: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut selector = BTreeMap::from([
        ("kubernetes.io/arch".to_owned(), ARCHITECTURE.to_owned()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
    ]);
    selector.extend(wanted.clone());
    selector
}

fn container(
    job: &Validated,
    settings: &OperatorSettings,
    stage: Stage,
    mounts: Vec<VolumeMount>,
) -> Container {
    let variable = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    };
    // The root file system is read-only, so what wants a home or a temporary folder gets a volume.
    let mut environment = vec![variable("HOME", TMP), variable("TMPDIR", path::SCRATCH)];
    if !volumes::claims_read(job).is_empty() {
        environment.push(variable(CLAIMS_VARIABLE, path::CLAIMS));
    }
    Container {
        name: TRAINER_CONTAINER.to_owned(),
        image: Some(settings.trainer_image.clone()),
        image_pull_policy: settings.trainer_image_pull_policy.clone(),
        command: Some(vec!["trainer".to_owned()]),
        args: Some(arguments(job, stage)),
        env: Some(environment),
        ports: (stage == Stage::Train).then(|| {
            vec![ContainerPort {
                name: Some("metrics".to_owned()),
                container_port: i32::from(port::TRAINER),
                ..ContainerPort::default()
            }]
        }),
        resources: resources(&job.spec.placement.resources, stage),
        volume_mounts: Some(mounts),
        // Without an outcome, the last lines of the log are the next best cause.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn arguments(job: &Validated, stage: Stage) -> Vec<String> {
    let within_scratch = |name: &str| format!("{}/{name}", path::SCRATCH);
    let (cache, outgoing) = (within_scratch("cache"), within_scratch("outgoing"));
    let digest = job.spec.digest();
    let mut arguments = vec![labels::stage_name(stage)];
    // Who may write ConfigMaps of the namespace is not who wrote the FineTuneJob: another manifest is refused, and so is another
    // job's, whose folder the result would go to.
    arguments.extend(["--file", path::JOB_FILE, "--spec-digest", &digest]);
    arguments.extend(["--job-namespace", &job.namespace, "--job-name", &job.name]);
    arguments.extend(["--job-uid", &job.uid]);
    arguments.extend(["--work", &job.job_uri]);
    arguments.extend(["--passing", &job.work_uri]);
    if job.spec.placement.cache_claim_name.is_some() {
        // What is on its way out is this pod's alone.
        arguments.extend(["--cache", path::CACHE, "--outgoing", &outgoing]);
    } else {
        arguments.extend(["--cache", &cache]);
    }
    arguments.extend(["--credentials", path::CREDENTIALS]);
    arguments.extend(["--termination-message", TERMINATION_LOG]);
    let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port::TRAINER)).to_string();
    if stage == Stage::Train {
        arguments.extend(["--listen", &listen]);
    }
    arguments.into_iter().map(str::to_owned).collect()
}

/// The container's resources. Preparing takes no device: it keeps only what every node has.
fn resources(wanted: &Resources, stage: Stage) -> Option<ResourceRequirements> {
    let keep = |amounts: &BTreeMap<String, String>| {
        let kept: BTreeMap<_, _> = amounts
            .iter()
            .filter(|(name, _)| {
                stage == Stage::Train
                    || ["cpu", "memory", "ephemeral-storage"].contains(&name.as_str())
            })
            .map(|(name, amount)| (name.clone(), Quantity(amount.clone())))
            .collect();
        (!kept.is_empty()).then_some(kept)
    };
    let (limits, requests) = (keep(&wanted.limits), keep(&wanted.requests));
    (limits.is_some() || requests.is_some()).then_some(ResourceRequirements {
        limits,
        requests,
        claims: None,
    })
}

fn tolerations(job: &Validated) -> Vec<Toleration> {
    job.spec
        .placement
        .tolerations
        .iter()
        .map(|toleration| Toleration {
            key: toleration.key.clone(),
            operator: Some(
                match toleration.operator {
                    TolerationOperator::Equal => "Equal",
                    TolerationOperator::Exists => "Exists",
                }
                .to_owned(),
            ),
            value: toleration.value.clone(),
            effect: toleration.effect.clone(),
            toleration_seconds: toleration.toleration_seconds,
        })
        .collect()
}
