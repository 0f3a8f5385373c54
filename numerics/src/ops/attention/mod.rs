//! Causal attention with grouped key and value heads over documents of several lengths: o = softmax(cap(q·kᵀ · scale) + mask)·v;
//! where a model has them, with a sliding window and with scores capped by a tanh.
//!
//! Block by block, with the softmax's sums carried along (Dao et al., 2022; Dao, 2023): no matrix of scores is ever kept, blocks that no
//! query sees are skipped, and the backward computes the scores again from the logarithm of their sums. Several documents lie end to
//! end in a row, none of which sees another; padding behind them gets zeros. A document's result does not depend on what lies beside
//! it, to the last bit. Scores, probabilities and sums are fp32 whatever the type of the activations.

mod cpu;

use half::bf16;
use tch::Tensor;

use super::Result;
use super::profile::{Operation, timed};
use super::random::Dropout;
use super::side::Side;

/// What a layer's attention is like beside the sizes, which its inputs carry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSettings {
    /// What q·k is multiplied by.
    pub scale: f64,
    /// c of c·tanh(score / c), applied before the mask (Gemma 2).
    pub soft_cap: Option<f64>,
    /// The number of keys that a query sees, its own included; absent: all before it.
    pub window: Option<i64>,
    /// What leaves out probabilities, in training a base whose configuration asks for it. The mask is that of the rows
    /// (B·K·G·T, S) of all probabilities, or of each document's own, and is made again in the backward.
    pub dropout: Option<Dropout>,
}

/// What the backward needs.
#[derive(Debug)]
pub struct SavedAttention {
    settings: AttentionSettings,
    /// Queries (B, K, G, T, D), turned; `K` key heads, `G` query heads to each.
    queries: Tensor,
    /// Keys (B, K, T, D), turned.
    keys: Tensor,
    /// Values (B, K, T, D), in any order.
    values: Tensor,
    /// What the forward returned (B·T, K·G·D).
    output: Tensor,
    /// The logarithm of the sum of e^score of each query (B·K·G·T), fp32.
    log_sums: Tensor,
    documents: Option<Vec<Vec<i64>>>,
}

/// Gradients for queries (B, K, G, T, D), keys (B, K, T, D) and values (B·T, K·D).
#[derive(Debug)]
pub struct AttentionGradients {
    /// For the queries, in their shape.
    pub queries: Tensor,
    /// For the keys, in their shape.
    pub keys: Tensor,
    /// For the values, as the rows that they come from.
    pub values: Tensor,
}

/// Queries (B, K, G, T, D), contiguous, keys and values (B, K, S, D), S >= T: query t sees the keys up to S - T + t, and of these the
/// last `window`. With `documents`, the lengths of those of each row, S = T. Returns (B·T, K·G·D).
pub fn forward(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    settings: AttentionSettings,
    documents: Option<&[Vec<i64>]>,
) -> Result<(Tensor, SavedAttention)> {
    let side = Side::of(&queries, "an attention")?;
    let run = || match side {
        Side::CpuBrain => cpu::forward::<bf16>(&queries, &keys, &values, settings, documents),
        Side::CpuFloat => cpu::forward::<f32>(&queries, &keys, &values, settings, documents),
    };
    let (output, log_sums) = timed(Operation::Attention, run)?;
    let saved = SavedAttention {
        settings,
        queries,
        keys,
        values,
        output: output.shallow_clone(),
        log_sums,
        documents: documents.map(<[_]>::to_vec),
    };
    Ok((output, saved))
}

/// The gradients from that of the output (B·T, K·G·D).
pub fn backward(saved: &SavedAttention, d_output: &Tensor) -> Result<AttentionGradients> {
    let side = Side::of(d_output, "an attention")?;
    timed(Operation::Attention, || match side {
        Side::CpuBrain => cpu::backward::<bf16>(saved, d_output),
        Side::CpuFloat => cpu::backward::<f32>(saved, d_output),
    })
}

#[cfg(test)]
mod tests;
