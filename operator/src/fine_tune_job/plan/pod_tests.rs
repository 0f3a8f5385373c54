//! What a pod mounts: Secrets by use, claims once each.

use finetune_crds::contract::Stage;

use super::super::fixtures::*;
use super::*;

#[test]
fn each_secret_of_the_spec_is_mounted_for_its_own_use_and_may_be_absent() {
    let mut job = job();
    job.spec.initial_adapter = Some(finetune_crds::fine_tune_job::InitialAdapter {
        uri: "s3://models/adapters/first/".into(),
        credentials_secret_ref: Some(finetune_crds::shared::SecretReference {
            name: "models".into(),
        }),
    });
    let valid = super::super::validate::validate(&job).unwrap();
    for stage in [Stage::Prepare, Stage::Train] {
        let pod = pod::template(&valid, &settings(), stage).spec.unwrap();
        let mounts = pod.containers[0].volume_mounts.clone().unwrap();
        let mounted: Vec<_> = pod
            .volumes
            .iter()
            .flatten()
            .filter_map(|volume| {
                let secret = volume.secret.as_ref()?;
                let mount = mounts.iter().find(|mount| mount.name == volume.name)?;
                assert_eq!(secret.optional, Some(true));
                let folder = mount.mount_path.rsplit_once('/')?.1.to_owned();
                Some((folder, secret.secret_name.clone()?))
            })
            .collect();
        let expected = [
            ("base", "s3"),
            ("dataset", "data"),
            ("initial-adapter", "models"),
            ("output", "s3"),
        ];
        assert_eq!(
            mounted,
            expected.map(|(folder, name)| (folder.to_owned(), name.to_owned()))
        );
    }
}

#[test]
fn a_pod_is_told_which_manifest_it_may_take() {
    let valid = super::super::validate::validate(&job()).unwrap();
    for stage in [Stage::Prepare, Stage::Train] {
        let pod = pod::template(&valid, &settings(), stage).spec.unwrap();
        let arguments = pod.containers[0].args.clone().unwrap();
        let value_of = |flag: &str| {
            let at = arguments.iter().position(|argument| argument == flag);
            at.map(|at| arguments[at + 1].clone())
        };
        assert_eq!(value_of("--spec-digest"), Some(job().spec.digest()));
        assert_eq!(value_of("--job-namespace").as_deref(), Some("team-a"));
        assert_eq!(value_of("--job-name").as_deref(), Some("support"));
        assert_eq!(value_of("--job-uid").as_deref(), Some(UID));
    }
}

#[test]
fn a_pod_goes_to_nodes_of_its_images_architecture_unless_the_user_names_another() {
    let selector = |job: &finetune_crds::FineTuneJob| {
        let valid = super::super::validate::validate(job).unwrap();
        let pod = pod::template(&valid, &settings(), Stage::Train);
        pod.spec.unwrap().node_selector.unwrap()
    };
    let mut job = job();
    let usual = selector(&job);
    assert_eq!(usual["kubernetes.io/os"], "linux");
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    assert_eq!(usual["kubernetes.io/arch"], architecture);
    assert_eq!(usual["pool"], "gpu");
    job.spec
        .placement
        .node_selector
        .insert("kubernetes.io/arch".into(), "riscv64".into());
    assert_eq!(selector(&job)["kubernetes.io/arch"], "riscv64");
}

#[test]
fn a_toleration_keeps_its_seconds() {
    let valid = super::super::validate::validate(&job()).unwrap();
    let pod = pod::template(&valid, &settings(), Stage::Train)
        .spec
        .unwrap();
    assert_eq!(pod.tolerations.unwrap()[0].toleration_seconds, Some(60));
}

#[test]
fn an_image_that_does_not_know_its_arguments_is_said_to_be_the_older_one() {
    let mut pod = ended(Stage::Train, 2, None);
    if let super::super::seen::ContainerSeen::Terminated(terminated) = &mut pod.container {
        terminated.message = "error: unexpected argument '--spec-digest' found".into();
    }
    let plan = plan_for(
        &prepared_job(),
        &train_seen(failed("BackoffLimitExceeded", 4), vec![pod]),
    );
    assert_eq!(
        super::tests::reason_of(&plan, finetune_crds::names::condition::FAILED),
        Some(("True", "TrainerOlder"))
    );
    let message = super::tests::message_of(&plan, finetune_crds::names::condition::FAILED);
    assert!(message.contains("older than this operator"), "{message}");
}

#[test]
fn each_claim_is_mounted_once_for_reading_and_the_cache_for_writing() {
    let mut job = job();
    job.spec.base_model.uri = "pvc://models.shared/llama/".into();
    job.spec.dataset.train = [
        "pvc://data/a.jsonl",
        "pvc://data/b.jsonl",
        "s3://data/c.jsonl",
    ]
    .map(|uri| finetune_crds::fine_tune_job::Source { uri: uri.into() })
    .into();
    job.spec.placement.cache_claim_name = Some("downloads".into());
    let valid = super::super::validate::validate(&job).unwrap();
    for stage in [Stage::Prepare, Stage::Train] {
        let pod = pod::template(&valid, &settings(), stage).spec.unwrap();
        let container = &pod.containers[0];
        let mounts = container.volume_mounts.clone().unwrap();
        let claims: Vec<_> = pod
            .volumes
            .iter()
            .flatten()
            .filter_map(|volume| {
                let claim = volume.persistent_volume_claim.clone()?;
                let mounts = mounts.iter().filter(|mount| mount.name == volume.name);
                let paths = mounts.map(|mount| (mount.mount_path.clone(), mount.read_only));
                Some((claim.claim_name, claim.read_only, paths.collect::<Vec<_>>()))
            })
            .collect();
        let at = |path: &str, read_only| vec![(path.to_owned(), read_only)];
        let read = Some(true);
        assert_eq!(
            claims,
            [
                (
                    "data".to_owned(),
                    read,
                    at("/var/lib/finetune/claims/data", read)
                ),
                (
                    "downloads".to_owned(),
                    None,
                    at("/var/lib/finetune/cache", None)
                ),
                (
                    "models.shared".to_owned(),
                    read,
                    at("/var/lib/finetune/claims/models.shared", read)
                ),
            ]
        );
        let environment = container.env.clone().unwrap();
        assert!(
            environment
                .iter()
                .any(|variable| variable.name == "FINETUNE_CLAIMS"
                    && variable.value.as_deref() == Some("/var/lib/finetune/claims"))
        );
        let arguments = container.args.clone().unwrap().join(" ");
        assert!(
            arguments.contains("--cache /var/lib/finetune/cache --outgoing /scratch/outgoing"),
            "{arguments}"
        );
    }
}

#[test]
fn a_claim_that_is_read_and_keeps_downloads_is_one_volume_with_two_mounts() {
    let mut job = job();
    job.spec.base_model.uri = "pvc://shared/llama/".into();
    job.spec.placement.cache_claim_name = Some("shared".into());
    let valid = super::super::validate::validate(&job).unwrap();
    let pod = pod::template(&valid, &settings(), Stage::Train)
        .spec
        .unwrap();
    let volumes = pod.volumes.unwrap();
    let claims: Vec<_> = volumes
        .iter()
        .filter(|volume| volume.persistent_volume_claim.is_some())
        .collect();
    assert_eq!(claims.len(), 1);
    // A volume that is read-only could not be written to through any mount.
    assert_eq!(
        claims[0]
            .persistent_volume_claim
            .as_ref()
            .unwrap()
            .read_only,
        None
    );
    let mounts = pod.containers[0].volume_mounts.clone().unwrap();
    let mounts: Vec<_> = mounts
        .iter()
        .filter(|mount| mount.name == claims[0].name)
        .map(|mount| (mount.mount_path.as_str(), mount.read_only))
        .collect();
    assert_eq!(
        mounts,
        [
            ("/var/lib/finetune/claims/shared", Some(true)),
            ("/var/lib/finetune/cache", None)
        ]
    );
}
