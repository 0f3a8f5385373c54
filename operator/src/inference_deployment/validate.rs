//! What can be done for a Deployment. Pure: what is wrong is data for `plan`; the Adapters' controller shows it to people.

use finetune_crds::Adapter;
use finetune_crds::adapter::Engine;
use finetune_crds::names::annotation;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;

use super::claims::claims;
use super::seen::Seen;
use super::target;

/// What can be done for a Deployment.
#[derive(Clone, Debug)]
pub enum Verdict<'a> {
    /// Its owner has opted out: everything of ours goes.
    OptedOut,
    /// It can serve.
    Serving(Serving<'a>),
    /// Nothing can be done now, and what is there stays: no Adapter has named it yet, or its container cannot be told.
    Waiting,
}

/// A Deployment that can serve.
#[derive(Clone, Debug)]
pub struct Serving<'a> {
    /// What its engine is.
    pub engine: Engine,
    /// The engine's container. `None` once the last Adapter is gone: the pods stay as they are.
    pub container: Option<String>,
    /// The Secret with which the agent reads artefacts.
    pub credentials_secret: Option<String>,
    /// Aliases and whose they are, the oldest Adapter first.
    pub aliases: Vec<(String, &'a Adapter)>,
}

/// Looks at the Deployment's label, its containers and the Adapters that name it.
pub fn validate<'a>(deployment: &Deployment, seen: &'a Seen) -> Verdict<'a> {
    if !target::is_opted_in(deployment) {
        return Verdict::OptedOut;
    }
    let claims = claims(&deployment.name_any(), &seen.adapters);
    let (engine, container) = match claims.first() {
        Some(first) => match target::engine_container(deployment, first.serving) {
            Ok(container) => (first.serving.engine.clone(), Some(container)),
            Err(_) => return Verdict::Waiting,
        },
        None => match seen.config_map.desired() {
            Some(desired) => (desired.engine.clone(), None),
            None => return Verdict::Waiting,
        },
    };
    let granted = claims.into_iter().filter(|claim| claim.refusal.is_none());
    Verdict::Serving(Serving {
        engine,
        container,
        credentials_secret: deployment
            .annotations()
            .get(annotation::CREDENTIALS_SECRET)
            .cloned(),
        aliases: granted.map(|claim| (claim.alias, claim.adapter)).collect(),
    })
}
