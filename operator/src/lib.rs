//! The operator: controllers that drive custom resources, and what they share.
//!
//! `controller` wires; `fine_tune_job` and its siblings decide; `runtime` is the ground under them, and `settings` what they are told of the installation. No part of it links
//! libtorch, and none reads a Secret.

pub mod adapter;
pub mod agent;
pub mod controller;
pub mod fine_tune_job;
pub mod inference_deployment;
pub mod runtime;
pub mod settings;
