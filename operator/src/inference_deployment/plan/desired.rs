//! What the agents of a Deployment are told to serve, from the Adapters that name it. Pure.

use finetune_crds::Adapter;
use finetune_crds::adapter::AdapterVersion;
use kube::ResourceExt;

use super::super::validate::Serving;
use crate::agent::desired::{Desired, DesiredAdapter, DesiredVersion, Role};

/// What the agents shall serve. `before` is what they were told last; of the Adapters called `malformed`, which nobody can read
/// now, they are told that again.
pub(super) fn desired(
    deployment: &str,
    serving: &Serving<'_>,
    before: Option<&Desired>,
    malformed: &[String],
) -> Desired {
    let adapters = serving.aliases.iter().filter_map(|(alias, adapter)| {
        let versions = versions(deployment, adapter, before);
        (!versions.is_empty()).then(|| DesiredAdapter {
            alias: alias.clone(),
            versions,
        })
    });
    let mut adapters: Vec<DesiredAdapter> = adapters.collect();
    let unread = before.into_iter().flat_map(|before| &before.adapters);
    for known in unread {
        let mut versions = known.versions.iter();
        let is_malformed = versions.any(|version| {
            adapter_of(version).is_some_and(|name| malformed.iter().any(|known| known == name))
        });
        if is_malformed && adapters.iter().all(|adapter| adapter.alias != known.alias) {
            adapters.push(known.clone());
        }
    }
    Desired {
        engine: serving.engine.clone(),
        adapters,
    }
}

/// The name of the Adapter that a version is of.
fn adapter_of(version: &DesiredVersion) -> Option<&str> {
    version.version.rsplit_once('@').map(|(name, _)| name)
}

fn versions(deployment: &str, adapter: &Adapter, before: Option<&Desired>) -> Vec<DesiredVersion> {
    let Some(status) = &adapter.status else {
        return Vec::new();
    };
    let stable = status.stable.as_ref().map(|stable| {
        let proven =
            has_stable(&adapter.name_any(), before) || is_held(deployment, adapter, stable);
        // A pod that cannot hold a stable version is not ready. So a version that no pod of this Deployment has held is
        // tried first: a Deployment with another base must not lose the pods that it has.
        version(
            stable,
            if proven {
                Role::Stable
            } else {
                Role::Candidate
            },
        )
    });
    let candidate = status
        .candidate
        .as_ref()
        .filter(|candidate| Some(*candidate) != status.stable.as_ref());
    stable
        .into_iter()
        .chain(candidate.map(|candidate| version(candidate, Role::Candidate)))
        .collect()
}

/// Whether the agents of this Deployment already have a stable version of the adapter, this one or an earlier.
fn has_stable(adapter: &str, before: Option<&Desired>) -> bool {
    let mut versions = before.into_iter().flat_map(Desired::versions);
    versions.any(|version| version.role == Role::Stable && adapter_of(version) == Some(adapter))
}

/// Whether every pod of this Deployment was seen to hold the stable version.
fn is_held(deployment: &str, adapter: &Adapter, stable: &AdapterVersion) -> bool {
    // The counts speak of the wanted version, which may be a newer one.
    let is_wanted = adapter
        .spec
        .source
        .as_ref()
        .is_some_and(|source| source.digest == stable.digest);
    let serving = adapter.status.iter().flat_map(|status| &status.serving);
    let mut here = serving.filter(|serving| serving.deployment_name == deployment);
    is_wanted && here.any(|serving| serving.desired > 0 && serving.loaded == serving.desired)
}

fn version(version: &AdapterVersion, role: Role) -> DesiredVersion {
    DesiredVersion {
        version: version.version.clone(),
        uri: version.uri.clone(),
        digest: version.digest.clone(),
        role,
    }
}

#[cfg(test)]
mod tests {
    use finetune_crds::AdapterStatus;
    use finetune_crds::adapter::{Engine, ServingStatus};

    use super::super::super::fixtures::{adapter, source, version as fixture};
    use super::*;

    fn roles(adapter: &Adapter, before: Option<&Desired>) -> Vec<(String, Role)> {
        let serving = Serving {
            engine: Engine::default(),
            container: Some("engine".into()),
            credentials_secret: None,
            aliases: vec![("tone".into(), adapter)],
        };
        let desired = desired("server", &serving, before, &[]);
        desired
            .versions()
            .iter()
            .map(|version| (version.version.clone(), version.role))
            .collect()
    }

    fn told(role: Role) -> Desired {
        Desired {
            engine: Engine::default(),
            adapters: vec![DesiredAdapter {
                alias: "tone".into(),
                versions: vec![version(&fixture("tone", 'a'), role)],
            }],
        }
    }

    fn with_stable() -> Adapter {
        let mut adapter = adapter("tone", 1);
        adapter.spec.source = Some(source('a'));
        adapter.status = Some(AdapterStatus {
            stable: Some(fixture("tone", 'a')),
            ..AdapterStatus::default()
        });
        adapter
    }

    #[test]
    fn an_adapter_without_a_version_is_not_mentioned() {
        assert_eq!(roles(&adapter("tone", 1), None), []);
    }

    #[test]
    fn a_first_version_gates_no_pod() {
        let mut adapter = adapter("tone", 1);
        adapter.status = Some(AdapterStatus {
            candidate: Some(fixture("tone", 'a')),
            ..AdapterStatus::default()
        });
        assert_eq!(
            roles(&adapter, None),
            [("tone@aaaaaaaaaaaa".into(), Role::Candidate)]
        );
    }

    #[test]
    fn a_new_version_is_loaded_beside_the_stable_one_and_then_takes_its_place() {
        let mut adapter = with_stable();
        let before = told(Role::Stable);
        let status = adapter.status.as_mut().unwrap();
        status.candidate = Some(fixture("tone", 'b'));
        assert_eq!(
            roles(&adapter, Some(&before)),
            [
                ("tone@aaaaaaaaaaaa".into(), Role::Stable),
                ("tone@bbbbbbbbbbbb".into(), Role::Candidate)
            ]
        );
        let status = adapter.status.as_mut().unwrap();
        status.stable = status.candidate.take();
        assert_eq!(
            roles(&adapter, Some(&before)),
            [("tone@bbbbbbbbbbbb".into(), Role::Stable)]
        );
    }

    #[test]
    fn a_deployment_that_joins_later_is_gated_only_once_its_pods_hold_the_version() {
        let mut adapter = with_stable();
        assert_eq!(
            roles(&adapter, None),
            [("tone@aaaaaaaaaaaa".into(), Role::Candidate)]
        );
        assert_eq!(
            roles(&adapter, Some(&told(Role::Candidate))),
            [("tone@aaaaaaaaaaaa".into(), Role::Candidate)]
        );
        adapter.status.as_mut().unwrap().serving = vec![ServingStatus {
            deployment_name: "server".into(),
            alias: "tone".into(),
            desired: 2,
            loaded: 2,
            failing: Vec::new(),
        }];
        assert_eq!(
            roles(&adapter, None),
            [("tone@aaaaaaaaaaaa".into(), Role::Stable)]
        );
    }

    #[test]
    fn a_gate_stays_while_new_pods_have_not_loaded_yet() {
        let mut adapter = with_stable();
        adapter.status.as_mut().unwrap().serving = vec![ServingStatus {
            deployment_name: "server".into(),
            alias: "tone".into(),
            desired: 3,
            loaded: 1,
            failing: Vec::new(),
        }];
        assert_eq!(
            roles(&adapter, Some(&told(Role::Stable))),
            [("tone@aaaaaaaaaaaa".into(), Role::Stable)]
        );
    }
}
