//! The trainer as a library: everything that `trainer` does by hand or in a pod, without Kubernetes.
//!
//! The numeric core is `ops` (forward and backward of single operations), `model` (their wiring into a language model),
//! `method` (which parameters exist: all weights, a low-rank adapter, a 4-bit base) and `optimizer`. `train` tells one
//! run from the manifest to the published result; `cli` is the command line.

pub mod attempt;
pub mod base;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod data;
pub mod device;
pub mod evaluate;
pub mod export;
pub mod failure;
pub mod generate;
mod local_file;
pub mod manifest_file;
pub mod merge;
pub mod method;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod outcome;
pub mod peft;
pub mod prepare;
pub mod progress;
pub mod serve;
pub mod stop;
pub mod template;
pub mod tokenize;
pub mod train;
pub mod validate;
pub mod workplace;
