//! The trainer as a library: everything that `trainer` does by hand or in a pod, without Kubernetes.
//!
//! The numeric core is `ops` (forward and backward of single operations), `model` (their wiring into a language model),
//! `method` (which parameters exist: all weights, a low-rank adapter, a 4-bit base) and `optimizer`.

pub mod base;
pub mod data;
pub mod method;
pub mod model;
pub mod ops;
pub mod optimizer;
pub mod peft;
pub mod prepare;
pub mod template;
pub mod tokenize;
