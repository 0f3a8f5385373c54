//! The API of finetune-operator: the two custom resources, the strings that Kubernetes and users see, and the contract
//! between operator and trainer.
//!
//! This crate knows no client, no clock and no GPU. Everything here is plain data, so that both sides of the contract
//! can be compiled and tested alone.

#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats each struct inside a function, with its visibility"
)]

pub mod adapter;
pub mod contract;
pub mod fine_tune_job;
pub mod names;
pub mod patterns;
pub mod schema;
pub mod shared;
pub mod uris;

pub use adapter::{Adapter, AdapterSpec, AdapterStatus};
pub use fine_tune_job::{FineTuneJob, FineTuneJobSpec, FineTuneJobStatus};
