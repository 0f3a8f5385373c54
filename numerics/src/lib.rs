//! The numbers of training: what a step computes, in which order and in which type.
//!
//! From the bottom: `ops`, single operations with their forward and backward; `optimizer`, from gradients to parameters; `model`,
//! operations wired into a language model as its family does; `adapter`, low-rank adapters that ride on it. `ops` and `optimizer` know
//! nothing above them; `model` and `adapter` know each other. Nothing in here knows a job, a file or a URI: weights come through
//! `model::WeightSource`, settings as plain values, and what is random is a function of what a caller passes.

pub mod adapter;
pub mod device;
pub mod model;
pub mod ops;
pub mod optimizer;
