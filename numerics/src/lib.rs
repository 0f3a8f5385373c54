//! The numbers of training: what a step computes, in which order and in which type.
//!
//! From the bottom: `ops`, single operations with their forward and backward; `optimizer`, from gradients to parameters;
//! `architecture`, what a language model is made of and how its family wires it; `adapter`, low-rank adapters that ride on a model;
//! `model`, the model itself. Each knows only what stands before it. Nothing in here knows a job, a file or a URI: weights come through
//! `model::WeightSource`, settings as plain values, and what is random is a function of what a caller passes.

pub mod adapter;
pub mod architecture;
pub mod device;
pub mod model;
pub mod ops;
pub mod optimizer;
