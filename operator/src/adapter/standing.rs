//! How far a version has come on the pods that shall serve it. Pure; believes a pod only about itself.

use finetune_crds::Adapter;
use finetune_crds::adapter::{AdapterVersion, ServingStatus};

use super::seen::{AgentSeen, PodSeen, Seen, TargetSeen};
use crate::agent::state::GoldenState;
use crate::inference_deployment::claims::alias;

/// The most failing pods that a status names.
const MOST_FAILING: usize = 10;
/// The most characters of a pod's problem.
const LONGEST_PROBLEM: usize = 300;

/// How far a version has come.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    /// Pods that should hold it.
    pub desired: usize,
    /// Pods whose agent has checked its files.
    pub verified: usize,
    /// Pods whose engine holds it and was seen to answer rightly.
    pub loaded: usize,
    /// Pods where the alias leads to it.
    pub answering: usize,
    /// Whether every Deployment has the pods that it needs for this to be the whole truth.
    pub is_complete: bool,
    /// A pod that will never hold it.
    pub refusal: Option<Refusal>,
    /// What is awaited, in words; the first of several.
    pub waiting: Option<String>,
    /// A Deployment each.
    pub serving: Vec<ServingStatus>,
}

/// A pod's final word on a version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Whether the files were good, and the engine refused them.
    pub verified: bool,
    /// Why.
    pub message: String,
}

/// How far one pod is.
enum Step {
    /// Nothing to be said against it, and why it has not come further.
    Waiting { verified: bool, why: String },
    /// Something is wrong.
    Failing {
        verified: bool,
        is_final: bool,
        why: String,
    },
    /// The engine holds it.
    Loaded,
    /// The alias leads to it.
    Answering,
}

impl Standing {
    /// How far `version` has come.
    pub fn of(version: &AdapterVersion, adapter: &Adapter, seen: &Seen) -> Self {
        let mut standing = Self {
            is_complete: true,
            ..Self::default()
        };
        for target in &seen.targets {
            standing.add(version, &alias(adapter, &target.serving), target);
        }
        standing.is_complete &= standing.desired > 0;
        standing
    }

    /// Whether every pod holds it.
    pub const fn is_loaded(&self) -> bool {
        self.is_complete && self.loaded == self.desired
    }

    /// Whether it answers on every pod.
    pub const fn is_answering(&self) -> bool {
        self.is_complete && self.answering == self.desired
    }

    /// Whether the files are good, as every pod says.
    pub const fn is_verified(&self) -> bool {
        self.is_complete && self.verified == self.desired
    }

    /// The column of the same name.
    pub fn column(&self) -> String {
        format!("{}/{}", self.loaded, self.desired)
    }

    /// The first failing pod's problem, or else what is awaited.
    pub fn why(&self) -> String {
        let failing = self
            .serving
            .iter()
            .flat_map(|serving| &serving.failing)
            .next()
            .cloned();
        failing.or_else(|| self.waiting.clone()).unwrap_or_default()
    }

    /// Whether some pod is failing, and not only on its way.
    pub fn is_failing(&self) -> bool {
        self.serving
            .iter()
            .any(|serving| !serving.failing.is_empty())
    }

    fn add(&mut self, version: &AdapterVersion, alias: &str, target: &TargetSeen) {
        let (mut loaded, mut failing) = (0, Vec::new());
        for pod in &target.pods {
            let step = step(version, alias, pod);
            let verified = match &step {
                Step::Waiting { verified, .. } | Step::Failing { verified, .. } => *verified,
                Step::Loaded | Step::Answering => true,
            };
            self.verified += usize::from(verified);
            match step {
                Step::Waiting { why, .. } => {
                    self.waiting
                        .get_or_insert(format!("pod {} {why}", pod.name));
                }
                Step::Failing { is_final, why, .. } => {
                    let why: String = why.chars().take(LONGEST_PROBLEM).collect();
                    if is_final {
                        let message = format!("pod {}: {why}", pod.name);
                        self.refusal.get_or_insert(Refusal { verified, message });
                    }
                    failing.push(format!("{}: {why}", pod.name));
                }
                Step::Loaded => loaded += 1,
                Step::Answering => {
                    loaded += 1;
                    self.answering += 1;
                }
            }
        }
        failing.truncate(MOST_FAILING);
        self.loaded += loaded;
        self.desired += target.pods.len();
        let replicas = target
            .deployment
            .as_ref()
            .and_then(|deployment| deployment.spec.as_ref()?.replicas);
        if target.pods.is_empty() && replicas != Some(0) {
            self.is_complete = false;
            self.waiting.get_or_insert(format!(
                "Deployment {} has no running pod",
                target.serving.deployment_name
            ));
        }
        self.serving.push(ServingStatus {
            deployment_name: target.serving.deployment_name.clone(),
            alias: alias.to_owned(),
            desired: count(target.pods.len()),
            loaded: count(loaded),
            failing,
        });
    }
}

fn step(version: &AdapterVersion, alias: &str, pod: &PodSeen) -> Step {
    let waiting = |why: &str| Step::Waiting {
        verified: false,
        why: why.to_owned(),
    };
    let state = match &pod.agent {
        AgentSeen::Absent => {
            return waiting("runs without the agent until the Deployment has replaced it");
        }
        AgentSeen::Silent(problem) if pod.ready => {
            return Step::Failing {
                verified: false,
                is_final: false,
                why: format!("its agent {problem}"),
            };
        }
        AgentSeen::Silent(problem) => return waiting(&format!("starts; its agent {problem}")),
        AgentSeen::Speaks(state) => state,
    };
    let is_it = |known: &&crate::agent::state::VersionState| {
        known.version == version.version && known.digest == version.digest
    };
    let Some(known) = state.versions.iter().find(is_it) else {
        return match &state.desired_error {
            Some(error) => Step::Failing {
                verified: false,
                is_final: false,
                why: error.clone(),
            },
            None => waiting("has not been told of the version yet"),
        };
    };
    if known.is_proven() {
        return match state.aliases.get(alias) {
            Some(pointed) if *pointed == version.version => Step::Answering,
            _ => Step::Loaded,
        };
    }
    let verified = known.verified;
    if let Some(error) = &known.error {
        return Step::Failing {
            verified,
            is_final: known.permanent || known.golden == GoldenState::Failed,
            why: error.clone(),
        };
    }
    let why = if !verified {
        "downloads and checks it".to_owned()
    } else if !state.engine.reachable {
        let error = state
            .engine
            .error
            .as_deref()
            .unwrap_or("it does not answer");
        format!("waits for its engine: {error}")
    } else if known.loaded {
        "tests it".to_owned()
    } else {
        "loads it".to_owned()
    };
    Step::Waiting { verified, why }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
