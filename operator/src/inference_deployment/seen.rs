//! What `observe` found, as plain data: all that `validate` and `plan` may know of the cluster.

use finetune_crds::Adapter;

use crate::agent::desired::Desired;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// All Adapters of the namespace that parse.
    pub adapters: Vec<Adapter>,
    /// The names of those that do not.
    pub malformed: Vec<String>,
    /// The ConfigMap that the agents read.
    pub config_map: ConfigMapSeen,
    /// The Deployment's pods that carry the agent.
    pub pods: Vec<PodSeen>,
}

/// The ConfigMap that the agents read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ConfigMapSeen {
    /// No object has the name.
    #[default]
    Absent,
    /// It belongs to the Deployment.
    Ours {
        /// What it holds.
        text: String,
        /// What that says; `None` if somebody spoilt it.
        desired: Option<Desired>,
    },
    /// An object that is not ours has the name.
    Foreign,
}

impl ConfigMapSeen {
    /// What the agents were told last.
    pub fn desired(&self) -> Option<&Desired> {
        match self {
            Self::Ours { desired, .. } => desired.as_ref(),
            Self::Absent | Self::Foreign => None,
        }
    }
}

/// A pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodSeen {
    /// Its name.
    pub name: String,
    /// The digest of what its kubelet was last asked to mount.
    pub desired_digest: Option<String>,
}
