//! `golden.json`: what an engine must answer when it holds the adapter, and what it would answer without it.
//!
//! A 200 from an engine proves nothing: it may serve the base, the wrong version or a wrong scale. Log-probabilities of
//! a fixed sequence tell them apart.

use serde::{Deserialize, Serialize};

/// Log-probabilities of fixed sequences under base and base + adapter.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Golden {
    /// The type in which the base was held when the numbers were made, as an engine serves it: `float32` or `bfloat16`.
    pub dtype: String,
    /// The greatest mean absolute difference, in nats, between an engine's log-probabilities and these.
    pub tolerance: f64,
    /// The sequences.
    pub samples: Vec<GoldenSample>,
}

/// One sequence.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GoldenSample {
    /// Token ids, n of them.
    pub tokens: Vec<u32>,
    /// Natural log-probabilities of tokens 1..n under the base, n − 1 of them.
    pub base: Vec<f64>,
    /// The same under base + adapter.
    pub adapter: Vec<f64>,
}
