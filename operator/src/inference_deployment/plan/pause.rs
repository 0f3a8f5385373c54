//! The pause before the engine of a pod that goes is told to stop, and whose it is. Pure.
//!
//! A container has one `preStop` hook. One that its owner has put there stays, however short it is: forced away, it would not come
//! back when he opts out.

use finetune_crds::names::field_manager;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PodSpec;
use kube::ResourceExt;
use serde_json::{Value, json};

/// How long our pause is, in seconds, where the pod has time for it: the pod leaves the Service meanwhile.
const OURS: i64 = 5;
/// The grace of a pod that names none, in seconds.
const DEFAULT_GRACE: i64 = 30;

/// Who says what happens before the engine is told to stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Hook {
    /// We do.
    Ours,
    /// Its owner does, with a hook of his own or a grace that leaves no time for ours.
    Owners,
}

/// The pause of an engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Pause {
    /// Whose it is.
    pub hook: Hook,
    /// How long the engine goes on answering, in seconds. Of an owner's hook that is no pause nobody can tell; it is taken to
    /// last as long as ours would.
    pub seconds: i64,
}

impl Pause {
    /// The pause of `container`, and how long it shall be if it is ours.
    pub(super) fn of(deployment: &Deployment, container: &str) -> Self {
        let empty = PodSpec::default();
        let pod = deployment.spec.as_ref();
        let pod = pod.and_then(|spec| spec.template.spec.as_ref());
        let pod = pod.unwrap_or(&empty);
        let grace = pod.termination_grace_period_seconds;
        let ours = OURS.min(grace.unwrap_or(DEFAULT_GRACE) / 2);
        let engine = pod.containers.iter().find(|it| it.name == container);
        let hook = engine.and_then(|engine| engine.lifecycle.as_ref()?.pre_stop.as_ref());
        match hook {
            Some(hook) if !is_ours_alone(deployment, container) => Self {
                hook: Hook::Owners,
                seconds: hook.sleep.as_ref().map_or(ours, |sleep| sleep.seconds),
            },
            _ if ours == 0 => Self {
                hook: Hook::Owners,
                seconds: 0,
            },
            _ => Self {
                hook: Hook::Ours,
                seconds: ours,
            },
        }
    }
}

/// Whether nobody but us has written the container's hook.
fn is_ours_alone(deployment: &Deployment, container: &str) -> bool {
    let writers = deployment.managed_fields().iter().filter(|entry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|fields| names_hook(&fields.0, container))
    });
    let mut ours =
        writers.map(|entry| entry.manager.as_deref() == Some(field_manager::INFERENCE_DEPLOYMENT));
    ours.next() == Some(true) && ours.all(|ours| ours)
}

/// Whether `fields`, in the form of `metadata.managedFields[].fieldsV1`, name the hook of `container` or something in it.
fn names_hook(fields: &Value, container: &str) -> bool {
    let key = format!("k:{}", json!({ "name": container }));
    let path = [
        "f:spec",
        "f:template",
        "f:spec",
        "f:containers",
        &key,
        "f:lifecycle",
        "f:preStop",
    ];
    path.into_iter()
        .try_fold(fields, |fields, step| fields.get(step))
        .is_some()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};

    use super::super::super::fixtures::deployment;
    use super::*;

    /// The engine with `hook`, written by `managers`, in a pod with `grace`.
    fn pause(hook: Option<Value>, managers: &[&str], grace: Option<i64>) -> Pause {
        let mut deployment = deployment();
        let template = &mut deployment.spec.as_mut().unwrap().template;
        let pod = template.spec.as_mut().unwrap();
        pod.termination_grace_period_seconds = grace;
        let lifecycle = hook.map(|hook| json!({ "preStop": hook }));
        pod.containers[0].lifecycle = serde_json::from_value(json!(lifecycle)).unwrap();
        // As an API server writes it: leaves, with the keys of lists.
        let hook = json!({ "f:lifecycle": { "f:preStop": { "f:sleep": { "f:seconds": {} } } }, "f:name": {} });
        let fields = json!({ "f:spec": { "f:template": { "f:spec": { "f:containers": {
            "k:{\"name\":\"engine\"}": hook,
        } } } } });
        let entry = |manager: &&str| ManagedFieldsEntry {
            manager: Some((*manager).to_owned()),
            fields_v1: Some(FieldsV1(fields.clone())),
            ..ManagedFieldsEntry::default()
        };
        deployment.metadata.managed_fields = Some(managers.iter().map(entry).collect());
        Pause::of(&deployment, "engine")
    }

    fn sleep(seconds: i64) -> Value {
        json!({ "sleep": { "seconds": seconds } })
    }

    const fn ours(seconds: i64) -> Pause {
        Pause {
            hook: Hook::Ours,
            seconds,
        }
    }

    const fn owners(seconds: i64) -> Pause {
        Pause {
            hook: Hook::Owners,
            seconds,
        }
    }

    const US: &str = field_manager::INFERENCE_DEPLOYMENT;

    #[test]
    fn an_engine_without_a_hook_gets_ours_and_keeps_it() {
        assert_eq!(pause(None, &[], None), ours(5));
        assert_eq!(pause(Some(sleep(5)), &[US], None), ours(5));
    }

    #[test]
    fn ours_follows_the_grace_of_the_pod() {
        assert_eq!(pause(Some(sleep(5)), &[US], Some(8)), ours(4));
        assert_eq!(pause(Some(sleep(2)), &[US], Some(60)), ours(5));
        let without_time = [1, 0].map(|grace| pause(None, &[], Some(grace)));
        assert_eq!(without_time, [owners(0), owners(0)]);
    }

    #[rstest::rstest]
    #[case::shorter_than_ours(Some(sleep(3)), &["kubectl"], 3)]
    #[case::as_long_as_ours(Some(sleep(5)), &["kubectl"], 5)]
    #[case::longer(Some(sleep(20)), &["kubectl"], 20)]
    #[case::shared_with_us(Some(sleep(5)), &[US, "kubectl"], 5)]
    #[case::of_an_unknown_writer(Some(sleep(5)), &[], 5)]
    #[case::a_command(Some(json!({ "exec": { "command": ["drain"] } })), &["kubectl"], 5)]
    fn an_owners_hook_stays_his(
        #[case] hook: Option<Value>,
        #[case] managers: &[&str],
        #[case] seconds: i64,
    ) {
        assert_eq!(pause(hook, managers, None), owners(seconds));
    }

    #[test]
    fn who_wrote_the_hook_of_another_container_did_not_write_this_one() {
        let fields = json!({ "f:spec": { "f:template": { "f:spec": { "f:containers": {
            "k:{\"name\":\"engine\"}": { "f:image": {} },
            "k:{\"name\":\"other\"}": { "f:lifecycle": { "f:preStop": {} } },
        } } } } });
        assert!(names_hook(&fields, "other") && !names_hook(&fields, "engine"));
    }
}
