//! Causal attention with grouped key and value heads, as two batched matrix products around a softmax.
//!
//! The queries of a group are laid end to end, so that one product serves all heads that share a key head, and the
//! gradients for keys and values come out summed. (On a CPU this is faster than libtorch's fused attention.)

use tch::{Device, Kind, Tensor};

use super::Result;

/// From this many keys on, the probabilities are computed again in the backward instead of being kept: they grow with
/// the square of the length.
const KEEP_PROBABILITIES_BELOW: i64 = 512;

/// What the backward needs.
#[derive(Debug)]
pub struct Saved {
    /// Queries (B, K, G, T, D), turned; `K` key heads, `G` query heads to each.
    queries: Tensor,
    /// Keys (B, K, S, D), turned.
    keys: Tensor,
    /// Values (B, K, S, D).
    values: Tensor,
    /// (B·K, G·T, S), absent for long sequences.
    probabilities: Option<Tensor>,
}

/// Gradients for queries (B, K, G, T, D), keys and values (B, K, S, D).
#[derive(Debug)]
pub struct Gradients {
    /// For the queries, in their shape.
    pub queries: Tensor,
    /// For the keys, in their shape.
    pub keys: Tensor,
    /// For the values, in their shape.
    pub values: Tensor,
}

/// Queries (B, K, G, T, D), keys and values (B, K, S, D), all contiguous, S >= T: query t sees the keys up to S - T + t.
/// Returns (B·T, K·G·D).
pub fn forward(queries: Tensor, keys: Tensor, values: Tensor) -> Result<(Tensor, Saved)> {
    let (batch, key_heads, groups, length, head_dim) = queries.size5()?;
    let probabilities = probabilities(&queries, &keys)?;
    let output = probabilities.f_bmm(&flat(&values)?)?; // (B·K, G·T, D)
    let output = output
        .f_view([batch, key_heads, groups, length, head_dim])?
        .f_permute([0, 3, 1, 2, 4])?
        .f_reshape([batch * length, key_heads * groups * head_dim])?;
    let keep = keys.size()[2] < KEEP_PROBABILITIES_BELOW;
    let probabilities = keep.then_some(probabilities);
    Ok((
        output,
        Saved {
            queries,
            keys,
            values,
            probabilities,
        },
    ))
}

/// The gradients from that of the output (B·T, K·G·D).
pub fn backward(saved: &Saved, d_output: &Tensor) -> Result<Gradients> {
    let (batch, key_heads, groups, length, head_dim) = saved.queries.size5()?;
    let recomputed;
    let probabilities = if let Some(kept) = &saved.probabilities {
        kept
    } else {
        recomputed = self::probabilities(&saved.queries, &saved.keys)?;
        &recomputed
    };
    let d_output = d_output
        .f_view([batch, length, key_heads, groups, head_dim])?
        .f_permute([0, 2, 3, 1, 4])?
        .f_reshape([batch * key_heads, groups * length, head_dim])?;
    let d_values = probabilities.f_transpose(1, 2)?.f_bmm(&d_output)?; // (B·K, S, D)
    let d_probabilities = d_output.f_bmm(&flat(&saved.values)?.f_transpose(1, 2)?)?; // (B·K, G·T, S)
    let kind = probabilities.f_kind()?;
    let d_scores =
        Tensor::f_internal_softmax_backward_data(&d_probabilities, probabilities, -1, kind)?;
    let scale = scale(head_dim);
    let d_queries = d_scores.f_bmm(&flat(&saved.keys)?)?.f_mul_scalar_(scale)?;
    let d_keys = d_scores
        .f_transpose(1, 2)?
        .f_bmm(&flat(&saved.queries)?)?
        .f_mul_scalar_(scale)?;
    Ok(Gradients {
        queries: d_queries.f_view_as(&saved.queries)?,
        keys: d_keys.f_view_as(&saved.keys)?,
        values: d_values.f_view_as(&saved.values)?,
    })
}

/// softmax(q·kᵀ / sqrt(D) + mask), (B·K, G·T, S). libtorch sums the softmax of bf16 scores in fp32.
fn probabilities(queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
    let (batch, key_heads, groups, length, head_dim) = queries.size5()?;
    let keys_seen = keys.size()[2];
    let mask = Tensor::f_full(
        [length, keys_seen],
        f64::NEG_INFINITY,
        (queries.f_kind()?, Device::Cpu),
    )?
    .f_triu(keys_seen - length + 1)?
    .f_repeat([groups, 1])?
    .f_unsqueeze(0)?
    .f_expand([batch * key_heads, groups * length, keys_seen], false)?;
    let scores = mask.f_baddbmm(
        &flat(queries)?,
        &flat(keys)?.f_transpose(1, 2)?,
        1.0,
        scale(head_dim),
    )?;
    Ok(scores.f_softmax(-1, None::<Kind>)?)
}

fn scale(head_dim: i64) -> f64 {
    1.0 / (head_dim as f64).sqrt()
}

/// (B, K, …, D) as (B·K, rows, D).
fn flat(tensor: &Tensor) -> Result<Tensor> {
    let size = tensor.size();
    Ok(tensor.f_reshape([size[0] * size[1], -1, size[size.len() - 1]])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[i64], seed: i64) -> Tensor {
        tch::manual_seed(seed);
        Tensor::randn(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true)
    }

    /// Head by head, with libtorch's automatic differentiation.
    fn reference(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Tensor {
        let (batch, key_heads, groups, length, head_dim) = queries.size5().unwrap();
        let seen = keys.size()[2];
        let future =
            Tensor::ones([length, seen], (Kind::Bool, Device::Cpu)).triu(seen - length + 1);
        let scores =
            queries.matmul(&keys.unsqueeze(2).transpose(-1, -2)) / (head_dim as f64).sqrt();
        let weights = scores
            .masked_fill(&future, f64::NEG_INFINITY)
            .softmax(-1, Kind::Float);
        let output = weights.matmul(&values.unsqueeze(2)); // (B, K, G, T, D)
        output
            .permute([0, 3, 1, 2, 4])
            .reshape([batch * length, key_heads * groups * head_dim])
    }

    fn assert_close(ours: &Tensor, expected: &Tensor) {
        let difference = (ours - expected).abs().max().double_value(&[]);
        assert!(
            difference < 1e-5 * expected.abs().max().double_value(&[]),
            "{difference}"
        );
    }

    fn compare(length: i64, keep: bool) {
        let queries = random(&[2, 2, 3, length, 4], 1);
        let [keys, values] = [2, 3].map(|seed| random(&[2, 2, length, 4], seed));
        let expected = reference(&queries, &keys, &values);
        let weight = random(&expected.size(), 4).detach();
        (&expected * &weight).sum(Kind::Float).backward();

        let (output, saved) = forward(queries.detach(), keys.detach(), values.detach()).unwrap();
        assert_eq!(saved.probabilities.is_some(), keep);
        assert_close(&output, &expected.detach());
        let gradients = backward(&saved, &weight).unwrap();
        assert_close(&gradients.queries, &queries.grad());
        assert_close(&gradients.keys, &keys.grad());
        assert_close(&gradients.values, &values.grad());
    }

    #[test]
    fn equals_automatic_differentiation() {
        compare(17, true);
    }

    #[test]
    fn equals_automatic_differentiation_where_the_probabilities_are_computed_again() {
        compare(KEEP_PROBABILITIES_BELOW, false);
    }
}
