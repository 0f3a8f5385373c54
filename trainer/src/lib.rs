//! The trainer as a library: everything that `trainer` does by hand or in a pod, without Kubernetes.
//!
//! What it computes is the crate `finetune_numerics`, how data becomes tokens `finetune_dataset`. `job` is what is to be done,
//! `train` tells one run from there to the published result, `run` is what that is made of; `cli` is the command line.

pub mod attempt;
pub mod base;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod device;
pub mod evaluate;
pub mod export;
pub mod failure;
pub mod generate;
pub mod job;
mod local_file;
pub mod manifest_file;
pub mod merge;
pub mod metrics_log;
pub mod objective;
pub mod outcome;
pub mod peft;
pub mod prepare;
pub mod progress;
pub mod run;
mod series;
pub mod serve;
pub mod stop;
pub mod train;
pub mod validate;
pub mod workplace;
