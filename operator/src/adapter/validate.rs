//! What stands in the way of serving an Adapter. Pure: a fault is data for `plan`, never an error.

use finetune_crds::Adapter;
use finetune_crds::adapter::AdapterVersion;
use finetune_crds::contract::layout::version_name;
use finetune_crds::names::annotation;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;

use super::seen::{Seen, TargetSeen};
use crate::inference_deployment::claims::{alias, claims};
use crate::inference_deployment::target::engine_container;

/// An Adapter, looked through.
#[derive(Clone, Debug)]
pub struct Validated {
    /// The version that the spec names; `None` until a job has published.
    pub wanted: Option<AdapterVersion>,
    /// What stands in the way, the gravest first.
    pub faults: Vec<Fault>,
    /// Whether the base was compared.
    pub base: BaseCheck,
}

/// Something that stands in the way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// What kind it is of.
    pub kind: FaultKind,
    /// A word for a condition.
    pub reason: &'static str,
    /// A sentence for a person.
    pub message: String,
}

/// What kind a fault is of, the gravest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum FaultKind {
    /// The engine serves another base than the adapter was trained on.
    Base,
    /// Another Adapter, or the base, has the alias.
    Conflict,
    /// Spec and Deployment do not fit.
    Target,
    /// A Deployment is not there, or has not opted in: it may come.
    Absent,
}

/// Whether the base was compared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BaseCheck {
    /// Every Deployment declares the base of the adapter.
    Same,
    /// It could not be told, and why.
    Unchecked(String),
    /// A Deployment declares another.
    Differs(String),
}

/// Looks an Adapter through.
pub fn validate(adapter: &Adapter, seen: &Seen) -> Validated {
    let mut faults: Vec<Fault> = seen
        .targets
        .iter()
        .filter_map(|target| fault(adapter, target, seen))
        .collect();
    let base = check_base(adapter, seen);
    if let BaseCheck::Differs(message) = &base {
        faults.push(Fault {
            kind: FaultKind::Base,
            reason: "BaseModelDiffers",
            message: message.clone(),
        });
    }
    if seen.targets.is_empty() {
        faults.push(Fault {
            kind: FaultKind::Absent,
            reason: "NoDeployment",
            message: "spec.serving is empty; name the Deployments that shall serve the adapter"
                .to_owned(),
        });
    }
    faults.sort_by_key(|fault| fault.kind);
    let name = adapter.name_any();
    Validated {
        wanted: adapter.spec.source.as_ref().map(|source| AdapterVersion {
            version: version_name(&name, &source.digest),
            digest: source.digest.clone(),
            uri: source.uri.clone(),
        }),
        faults,
        base,
    }
}

/// What is wrong with one Deployment, for this Adapter.
fn fault(adapter: &Adapter, target: &TargetSeen, seen: &Seen) -> Option<Fault> {
    let serving = &target.serving;
    let name = &serving.deployment_name;
    let Some(deployment) = &target.deployment else {
        return Some(Fault {
            kind: FaultKind::Absent,
            reason: "NoDeployment",
            message: format!("there is no Deployment {name} in this namespace"),
        });
    };
    let claims = claims(name, &seen.adapters);
    let claim = claims
        .iter()
        .find(|claim| claim.adapter.metadata.uid == adapter.metadata.uid);
    if let Some(refusal) = claim.and_then(|claim| claim.refusal.as_ref()) {
        return Some(Fault {
            kind: FaultKind::Conflict,
            reason: refusal.reason(),
            message: format!("on Deployment {name}, {refusal}"),
        });
    }
    if let Err(unusable) = engine_container(deployment, serving) {
        let absent = unusable.reason() == "NotOptedIn";
        return Some(Fault {
            kind: if absent {
                FaultKind::Absent
            } else {
                FaultKind::Target
            },
            reason: unusable.reason(),
            message: format!("Deployment {name} cannot serve it: {unusable}"),
        });
    }
    let alias = alias(adapter, serving);
    let mut states = target.pods.iter().filter_map(|pod| pod.state());
    states.any(|state| state.engine.models.contains(&alias)).then(|| Fault {
        kind: FaultKind::Conflict,
        reason: "AliasIsModel",
        message: format!(
            "on Deployment {name}, the engine itself serves a model called `{alias}`; set another spec.serving[].alias"
        ),
    })
}

fn check_base(adapter: &Adapter, seen: &Seen) -> BaseCheck {
    let trained_on = adapter
        .spec
        .base_model
        .as_ref()
        .and_then(|base| base.digest.as_deref());
    let mut unchecked = None;
    for target in &seen.targets {
        let declared = target.deployment.as_ref().and_then(declared_base);
        let name = &target.serving.deployment_name;
        match (trained_on, declared) {
            (Some(trained_on), Some(declared)) if trained_on != declared => {
                return BaseCheck::Differs(format!(
                    "the adapter was trained on base {trained_on}, Deployment {name} declares {declared} by the annotation \
                     {}; serve the base that the adapter was trained on, or correct the annotation",
                    annotation::BASE_MODEL
                ));
            }
            (Some(_), Some(_)) => {}
            (None, _) => {
                unchecked =
                    Some("it is not known on which base the adapter was trained".to_owned());
            }
            (Some(_), None) => {
                unchecked = Some(format!(
                    "unchecked: Deployment {name} does not declare its base by the annotation {}",
                    annotation::BASE_MODEL
                ));
            }
        }
    }
    match unchecked {
        Some(why) => BaseCheck::Unchecked(why),
        None if seen.targets.is_empty() => {
            BaseCheck::Unchecked("no Deployment is named".to_owned())
        }
        None => BaseCheck::Same,
    }
}

fn declared_base(deployment: &Deployment) -> Option<&str> {
    deployment
        .annotations()
        .get(annotation::BASE_MODEL)
        .map(String::as_str)
}
