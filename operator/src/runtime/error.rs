//! The errors of this process. A fault in somebody's spec is never one of them: it is data, shown in a condition.

use std::time::Duration;

/// What only another try, or whoever runs the operator, can mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or was unreachable.
    #[error("failed to {step}: {source}")]
    Cluster {
        /// What was tried, as a verb and its object.
        step: &'static str,
        /// What the client said.
        source: Box<kube::Error>,
    },
    /// A reconcile took longer than its deadline; the next one starts afresh.
    #[error("gave up after {} s: the API server is slow or does not answer", .0.as_secs())]
    Deadline(Duration),
    /// No way to the cluster was found.
    #[error(
        "cannot connect to Kubernetes: {0}; run inside a cluster with a ServiceAccount, or set KUBECONFIG to a file"
    )]
    Connect(String),
    /// Another replica leads, or may.
    #[error("{0}; this process ends, so that two never act at once")]
    LeaseLost(String),
    /// A controller's stream ended although nobody asked it to.
    #[error("the {0} controller stopped by itself; the process ends, to be started again")]
    Ended(&'static str),
    /// The address for health and metrics cannot be used.
    #[error("cannot listen on {address}: {source}; choose another with --listen")]
    Listen {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A flag has a value that nothing can be done with.
    #[error("{0}")]
    Argument(String),
}

impl Error {
    /// Wraps a client error with the step that failed; made for `map_err`.
    pub fn cluster(step: &'static str) -> impl Fn(kube::Error) -> Self {
        move |source| Self::Cluster {
            step,
            source: Box::new(source),
        }
    }

    /// Whether the object had changed, or come to be, since it was read: read it again, nothing is wrong.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Cluster { source, .. } if matches!(
            source.as_ref(),
            kube::Error::Api(status) if status.is_conflict() || status.is_already_exists()
        ))
    }

    /// A word for a metric's label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Cluster { .. } => "cluster",
            Self::Deadline(_) => "deadline",
            Self::Connect(_) => "connect",
            Self::LeaseLost(_) => "lease_lost",
            Self::Ended(_) => "ended",
            Self::Listen { .. } => "listen",
            Self::Argument(_) => "argument",
        }
    }
}
