//! What `observe` found, as plain data: all that `validate` and `plan` may know of the cluster.

use finetune_crds::contract::{Outcome, Progress, Stage};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The ConfigMap with the manifest.
    pub config_map: Child<ManifestSeen>,
    /// The prepare Job.
    pub prepare: Child<JobSeen>,
    /// The train Job.
    pub train: Child<JobSeen>,
    /// The pods of those two Jobs, the oldest first.
    pub pods: Vec<PodSeen>,
    /// What the running train pod says of its progress, or why it says nothing. Absent: no such pod.
    pub progress: Option<Result<Progress, String>>,
    /// Why no pod could be created for a Job that should have one, as the Job controller's Event says it.
    pub pod_refusal: Option<String>,
    /// The Adapter that gets the result. Looked at only when there is a result to hand over.
    pub adapter: AdapterSeen,
}

/// A child with a fixed name.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Child<T> {
    /// No object has the name.
    #[default]
    Absent,
    /// It is ours.
    Ours {
        /// Its UID.
        uid: String,
        /// Whether it is being deleted.
        deleting: bool,
        /// The rest.
        is: T,
    },
    /// It belongs to an earlier FineTuneJob of the same name, which is gone: Kubernetes is about to remove it.
    Leftover,
    /// An object that is not ours has the name.
    Foreign {
        /// What is known of whose it is, in words.
        owner: String,
    },
}

impl<T> Child<T> {
    /// The child, if it is ours and stays.
    pub fn ours(&self) -> Option<&T> {
        match self {
            Self::Ours {
                is,
                deleting: false,
                ..
            } => Some(is),
            _ => None,
        }
    }

    /// Its UID, if it is ours.
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::Ours { uid, .. } => Some(uid),
            _ => None,
        }
    }
}

/// What the ConfigMap with the manifest holds under the manifest's key, if anything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ManifestSeen(pub Option<String>);

/// A Job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobSeen {
    /// How it ended; absent while it has not.
    pub end: Option<JobEnd>,
    /// Pods that failed and count.
    pub failed: i32,
    /// How many of them are replaced, as it was made with.
    pub backoff_limit: Option<i32>,
    /// When the Job controller last began to work on it: when it was first seen, or when its queue let it go.
    pub started: Option<Timestamp>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Whether it is held back, by a queue for instance, or was so until just now.
    pub suspended: bool,
}

/// How a Job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum JobEnd {
    /// Its pod succeeded.
    Complete,
    /// It gave up.
    Failed {
        /// The Job controller's reason.
        reason: String,
        /// Its message.
        message: String,
    },
}

/// A pod of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSeen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The node that it runs on.
    pub node: Option<String>,
    /// When it should be gone, if it is being ended: its grace is over by then.
    pub end_due: Option<Timestamp>,
    /// The stage that it works on.
    pub stage: Stage,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Its address, once it has one.
    pub ip: Option<String>,
    /// Why no node takes it.
    pub unschedulable: Option<String>,
    /// Why it was ended from outside: evicted, preempted, its node lost.
    pub disruption: Option<String>,
    /// Whether it has failed as a whole.
    pub failed: bool,
    /// What its container does.
    pub container: ContainerSeen,
}

/// The trainer's container.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ContainerSeen {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// It does not run yet.
    Waiting {
        /// The kubelet's reason.
        reason: String,
        /// Its message.
        message: String,
    },
    /// It runs.
    Running {
        /// Since when.
        started: Option<Timestamp>,
    },
    /// It ended.
    Terminated(Box<Terminated>),
}

/// A container that ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terminated {
    /// Its exit code.
    pub exit_code: i32,
    /// The kubelet's reason, such as `OOMKilled`.
    pub reason: String,
    /// When it started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// What it said of its end, if that is the outcome of this job.
    pub outcome: Option<Outcome>,
    /// What it said otherwise: the last lines of its log.
    pub message: String,
    /// Whose outcome it left, in words, if that is not the outcome of this job and stage.
    pub stranger: Option<String>,
}

impl PodSeen {
    /// How the container ended.
    pub fn terminated(&self) -> Option<&Terminated> {
        match &self.container {
            ContainerSeen::Terminated(terminated) => Some(terminated),
            _ => None,
        }
    }

    /// Whether the container runs.
    pub fn is_running(&self) -> bool {
        matches!(self.container, ContainerSeen::Running { .. })
    }

    /// Whether it was killed for using more memory than its limit.
    pub fn is_out_of_memory(&self) -> bool {
        self.terminated().is_some_and(|t| t.reason == "OOMKilled")
    }
}

/// The Adapter that gets the result.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AdapterSeen {
    /// There is none, or nobody looked.
    #[default]
    Absent,
    /// There is one, which does not parse, and why.
    Malformed(String),
    /// There is one.
    Present {
        /// Its UID.
        uid: String,
        /// Whether it is being deleted.
        deleting: bool,
        /// The digest that it has.
        digest: Option<String>,
        /// The version of the object that was read. It is written only if it still is this one.
        resource_version: String,
        /// The UID of the FineTuneJob that gave it.
        from_job: Option<String>,
        /// Whether that FineTuneJob is younger than this one.
        from_younger_job: bool,
        /// The record of the owners of its fields that is to be written before a version is applied; absent where it stays as it
        /// is.
        owners: Option<Vec<ManagedFieldsEntry>>,
    },
}
