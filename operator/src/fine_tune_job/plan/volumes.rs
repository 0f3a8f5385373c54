//! What the trainer's pod mounts: its manifest, room to work in, a Secret for each use, and the claims that its user named.
//!
//! A claim that is read from is never mounted for writing.

use std::collections::{BTreeMap, BTreeSet};

use finetune_crds::names::path;
use finetune_crds::shared::SecretReference;
use finetune_crds::uris;
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, PersistentVolumeClaimVolumeSource,
    SecretVolumeSource, Volume, VolumeMount,
};

use super::super::validate::Validated;
use super::config_map;

/// Where programs put small files that nobody asked for.
pub(super) const TMP: &str = "/tmp";

/// Volumes, and where the container sees them.
pub(super) struct Mounted {
    pub(super) volumes: Vec<Volume>,
    pub(super) mounts: Vec<VolumeMount>,
}

impl Mounted {
    fn add(&mut self, volume: Volume, mount_path: &str, read_only: bool) {
        self.mounts.push(mount(&volume.name, mount_path, read_only));
        self.volumes.push(volume);
    }
}

/// Everything that the pods of a job mount.
pub(super) fn of(job: &Validated) -> Mounted {
    let mut mounted = Mounted {
        volumes: Vec::new(),
        mounts: Vec::new(),
    };
    let manifest = Volume {
        name: "job".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map::name(&job.name),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let job_folder = path::JOB_FILE
        .rsplit_once('/')
        .map_or(path::JOB_FILE, |(folder, _)| folder);
    mounted.add(manifest, job_folder, true);
    mounted.add(empty("scratch"), path::SCRATCH, false);
    mounted.add(empty("tmp"), TMP, false);
    for (usage, name) in secrets(job) {
        let folder = format!("{}/{usage}", path::CREDENTIALS);
        mounted.add(secret(usage, name), &folder, true);
    }
    add_claims(job, &mut mounted);
    mounted
}

/// The claims that the job's URIs name.
pub(super) fn claims_read(job: &Validated) -> BTreeSet<&str> {
    job.spec
        .sources()
        .filter_map(|(_, uri)| uris::claim_of(uri))
        .collect()
}

/// One volume a claim, however often it is named: a claim's name may be longer than a volume's, so they are numbered.
fn add_claims(job: &Validated, mounted: &mut Mounted) {
    let read = claims_read(job);
    let cache = job.spec.placement.cache_claim_name.as_deref();
    let all: BTreeSet<&str> = read.iter().copied().chain(cache).collect();
    for (number, claim) in all.into_iter().enumerate() {
        let name = format!("claim-{number}");
        let is_cache = cache == Some(claim);
        mounted.volumes.push(Volume {
            name: name.clone(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.to_owned(),
                read_only: (!is_cache).then_some(true),
            }),
            ..Volume::default()
        });
        if read.contains(claim) {
            let folder = format!("{}/{claim}", path::CLAIMS);
            mounted.mounts.push(mount(&name, &folder, true));
        }
        if is_cache {
            mounted.mounts.push(mount(&name, path::CACHE, false));
        }
    }
}

/// Which Secret is mounted for which use.
fn secrets(job: &Validated) -> BTreeMap<&'static str, &str> {
    let spec = &job.spec;
    let output = spec.output.as_ref();
    let initial_adapter = spec.initial_adapter.as_ref();
    let uses: [(&'static str, Option<&SecretReference>); 4] = [
        ("base", spec.base_model.credentials_secret_ref.as_ref()),
        ("dataset", spec.dataset.credentials_secret_ref.as_ref()),
        (
            "initial-adapter",
            initial_adapter.and_then(|adapter| adapter.credentials_secret_ref.as_ref()),
        ),
        (
            "output",
            output.and_then(|output| output.credentials_secret_ref.as_ref()),
        ),
    ];
    uses.into_iter()
        .filter_map(|(usage, reference)| Some((usage, reference?.name.as_str())))
        .collect()
}

fn secret(usage: &str, name: &str) -> Volume {
    Volume {
        name: format!("credentials-{usage}"),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.to_owned()),
            default_mode: Some(0o440),
            // A missing Secret must not hang the pod: the trainer says which one is missing.
            optional: Some(true),
            items: None,
        }),
        ..Volume::default()
    }
}

fn empty(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}
