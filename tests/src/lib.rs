//! What the whole-system tests share: a client of the real cluster, namespaces that go away, waiting with a reason,
//! the object store, and jobs small enough to be run by the dozen.
//!
//! The tests themselves live in `tests/tests`; their files begin with `cluster_` and what they look at: `admit`, `job`, `serve`,
//! `helm`. They expect `make cluster-up` and the installed chart, and run inside the cluster's network namespace.

pub mod chat;
pub mod cluster;
pub mod command;
pub mod fine_tune_job;
pub mod job;
pub mod keep_alive;
pub mod process;
pub mod refusals;
pub mod store;
pub mod support;
pub mod volume;
pub mod wait;
