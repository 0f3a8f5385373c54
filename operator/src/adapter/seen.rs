//! What `observe` found, as plain data: all that `validate` and `plan` may know of the cluster.

use finetune_crds::Adapter;
use finetune_crds::adapter::Serving;
use k8s_openapi::api::apps::v1::Deployment;

use crate::agent::state::State;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// All Adapters of the namespace, this one among them.
    pub adapters: Vec<Adapter>,
    /// The Deployments that the Adapter names.
    pub targets: Vec<TargetSeen>,
}

/// A Deployment that the Adapter names.
#[derive(Clone, Debug, Default)]
pub struct TargetSeen {
    /// How the Adapter names it.
    pub serving: Serving,
    /// The Deployment, if it is there.
    pub deployment: Option<Deployment>,
    /// Its running pods, by name.
    pub pods: Vec<PodSeen>,
}

/// A running pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodSeen {
    /// Its name.
    pub name: String,
    /// Whether requests are sent to it.
    pub ready: bool,
    /// What its agent says.
    pub agent: AgentSeen,
}

/// What a pod's agent says.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AgentSeen {
    /// The pod is from before the Deployment got the agent.
    #[default]
    Absent,
    /// It does not answer, and why.
    Silent(String),
    /// It answers.
    Speaks(Box<State>),
}

impl PodSeen {
    /// What the agent says, if it does.
    pub fn state(&self) -> Option<&State> {
        match &self.agent {
            AgentSeen::Speaks(state) => Some(state),
            AgentSeen::Absent | AgentSeen::Silent(_) => None,
        }
    }
}
