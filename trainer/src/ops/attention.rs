//! Causal attention with grouped key and value heads, as two batched matrix products around a softmax; where a model has them,
//! with a sliding window and with scores capped by a tanh.
//!
//! The queries of a group are laid end to end, so that one product serves all heads that share a key head, and the
//! gradients for keys and values come out summed. (On a CPU this is faster than libtorch's fused attention.)

use tch::{Device, Kind, Tensor};

use super::Result;
use super::random::Dropout;

/// From this many keys on, the probabilities are computed again in the backward instead of being kept: they grow with
/// the square of the length.
const KEEP_PROBABILITIES_BELOW: i64 = 512;

/// What a layer's attention is like beside the sizes, which its inputs carry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// What q·k is multiplied by.
    pub scale: f64,
    /// c of c·tanh(score / c), applied before the mask (Gemma 2).
    pub soft_cap: Option<f64>,
    /// The number of keys that a query sees, its own included; absent: all before it.
    pub window: Option<i64>,
    /// What leaves out probabilities, in training a base whose configuration asks for it. The mask is that of the rows
    /// (B·K·G·T, S) of all probabilities, and is made again in the backward.
    pub dropout: Option<Dropout>,
}

/// What the backward needs.
#[derive(Debug)]
pub struct Saved {
    settings: Settings,
    /// Queries (B, K, G, T, D), turned; `K` key heads, `G` query heads to each.
    queries: Tensor,
    /// Keys (B, K, S, D), turned.
    keys: Tensor,
    /// Values (B, K, S, D).
    values: Tensor,
    /// Absent for long sequences.
    probabilities: Option<Probabilities>,
}

/// The softmax and what its backward needs.
#[derive(Debug)]
struct Probabilities {
    /// (B·K, G·T, S).
    value: Tensor,
    /// tanh(score / c) in the same shape, where scores are capped.
    tanh: Option<Tensor>,
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

impl Saved {
    /// T, the number of queries.
    pub(super) fn length(&self) -> i64 {
        self.queries.size()[3]
    }
}

/// Queries (B, K, G, T, D), keys and values (B, K, S, D), all contiguous, S >= T: query t sees the keys up to S - T + t, and of
/// these the last `window`. Returns (B·T, K·G·D).
pub fn forward(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    settings: Settings,
) -> Result<(Tensor, Saved)> {
    let (batch, key_heads, groups, length, head_dim) = queries.size5()?;
    let probabilities = probabilities(&queries, &keys, settings)?;
    let output = dropped(&probabilities.value, settings)?.f_bmm(&flat(&values)?)?; // (B·K, G·T, D)
    let output = output
        .f_view([batch, key_heads, groups, length, head_dim])?
        .f_permute([0, 3, 1, 2, 4])?
        .f_reshape([batch * length, key_heads * groups * head_dim])?;
    let keep = keys.size()[2] < KEEP_PROBABILITIES_BELOW;
    let probabilities = keep.then_some(probabilities);
    Ok((
        output,
        Saved {
            settings,
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
        recomputed = self::probabilities(&saved.queries, &saved.keys, saved.settings)?;
        &recomputed
    };
    let Probabilities { value, tanh } = probabilities;
    let d_output = d_output
        .f_view([batch, length, key_heads, groups, head_dim])?
        .f_permute([0, 2, 3, 1, 4])?
        .f_reshape([batch * key_heads, groups * length, head_dim])?;
    let seen = dropped(value, saved.settings)?;
    let d_values = seen.f_transpose(1, 2)?.f_bmm(&d_output)?; // (B·K, S, D)
    let d_probabilities = d_output.f_bmm(&flat(&saved.values)?.f_transpose(1, 2)?)?; // (B·K, G·T, S)
    let d_probabilities = dropped(&d_probabilities, saved.settings)?;
    let kind = value.f_kind()?;
    let mut d_scores = Tensor::f_internal_softmax_backward_data(&d_probabilities, value, -1, kind)?;
    if let Some(tanh) = tanh {
        // tanh' = 1 - tanh²
        d_scores = d_scores.f_sub(&tanh.f_square()?.f_mul_(&d_scores)?)?;
    }
    let scale = saved.settings.scale;
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

/// softmax(cap(q·kᵀ · scale) + mask). libtorch sums the softmax of bf16 scores in fp32.
fn probabilities(queries: &Tensor, keys: &Tensor, settings: Settings) -> Result<Probabilities> {
    let (batch, key_heads, groups, length, _) = queries.size5()?;
    let keys_seen = keys.size()[2];
    let mask = mask(length, keys_seen, settings.window, queries.f_kind()?)?
        .f_repeat([groups, 1])?
        .f_unsqueeze(0)?
        .f_expand([batch * key_heads, groups * length, keys_seen], false)?;
    let (queries, keys) = (flat(queries)?, flat(keys)?.f_transpose(1, 2)?);
    let (scores, tanh) = match settings.soft_cap {
        None => (mask.f_baddbmm(&queries, &keys, 1.0, settings.scale)?, None),
        Some(cap) => {
            let tanh = queries
                .f_bmm(&keys)?
                .f_mul_scalar_(settings.scale / cap)?
                .f_tanh_()?;
            (tanh.f_mul_scalar(cap)?.f_add_(&mask)?, Some(tanh))
        }
    };
    let value = scores.f_softmax(-1, None::<Kind>)?;
    Ok(Probabilities { value, tanh })
}

/// Numbers (B·K, G·T, S) under the mask of the dropout, if there is one.
fn dropped(x: &Tensor, settings: Settings) -> Result<Tensor> {
    match settings.dropout {
        None => Ok(x.shallow_clone()),
        Some(dropout) => {
            let rows = x.f_reshape([-1, x.size()[2]])?;
            Ok(dropout.apply(&rows)?.f_view_as(x)?)
        }
    }
}

/// What is added to the scores (T, S): 0 for a key that is seen, else minus infinity.
fn mask(length: i64, keys_seen: i64, window: Option<i64>, kind: Kind) -> Result<Tensor> {
    let hidden = || Tensor::f_full([length, keys_seen], f64::NEG_INFINITY, (kind, Device::Cpu));
    let earlier = keys_seen - length;
    let future = hidden()?.f_triu(earlier + 1)?;
    Ok(match window {
        Some(window) if window < keys_seen => future.f_add(&hidden()?.f_tril(earlier - window)?)?,
        Some(_) | None => future,
    })
}

/// (B, K, …, D) as (B·K, rows, D).
fn flat(tensor: &Tensor) -> Result<Tensor> {
    let size = tensor.size();
    Ok(tensor.f_reshape([size[0] * size[1], -1, size[size.len() - 1]])?)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::ops::random::Draw;
    use crate::ops::test_support::{assert_close, random};

    /// Head by head, with libtorch's automatic differentiation.
    fn reference(queries: &Tensor, keys: &Tensor, values: &Tensor, settings: Settings) -> Tensor {
        let (batch, key_heads, groups, length, head_dim) = queries.size5().unwrap();
        let seen = keys.size()[2];
        let all = Tensor::ones([length, seen], (Kind::Bool, Device::Cpu));
        let mut hidden = all.triu(seen - length + 1);
        if let Some(window) = settings.window {
            hidden = hidden.logical_or(&all.tril(seen - length - window));
        }
        let mut scores = queries.matmul(&keys.unsqueeze(2).transpose(-1, -2)) * settings.scale;
        if let Some(cap) = settings.soft_cap {
            scores = (scores / cap).tanh() * cap;
        }
        let weights = scores
            .masked_fill(&hidden, f64::NEG_INFINITY)
            .softmax(-1, Kind::Float);
        let weights = match settings.dropout {
            None => weights,
            Some(dropout) => {
                // Of ones it is the mask itself.
                let rows = [weights.numel() as i64 / seen, seen];
                let ones = Tensor::ones(rows, (Kind::Float, Device::Cpu));
                &weights * dropout.apply(&ones).unwrap().view_as(&scores)
            }
        };
        let output = weights.matmul(&values.unsqueeze(2)); // (B, K, G, T, D)
        output
            .permute([0, 3, 1, 2, 4])
            .reshape([batch * length, key_heads * groups * head_dim])
    }

    const PLAIN: Settings = Settings {
        scale: 0.5,
        soft_cap: None,
        window: None,
        dropout: None,
    };

    fn with_dropout(settings: Settings) -> Settings {
        let draw = Draw {
            seed: 1,
            step: 2,
            micro_batch: 3,
        };
        let dropout = Dropout {
            rate: 0.3,
            key: draw.key("attention"),
        };
        Settings {
            dropout: Some(dropout),
            ..settings
        }
    }

    fn compare(length: i64, keep: bool, settings: Settings) {
        let traced = |shape: &[i64], seed| random(shape, seed).set_requires_grad(true);
        let queries = traced(&[2, 2, 3, length, 4], 1);
        let [keys, values] = [2, 3].map(|seed| traced(&[2, 2, length, 4], seed));
        let expected = reference(&queries, &keys, &values, settings);
        let weight = random(&expected.size(), 4);
        (&expected * &weight).sum(Kind::Float).backward();

        let (output, saved) =
            forward(queries.detach(), keys.detach(), values.detach(), settings).unwrap();
        assert_eq!(saved.probabilities.is_some(), keep);
        assert_close(&output, &expected.detach());
        let gradients = backward(&saved, &weight).unwrap();
        assert_close(&gradients.queries, &queries.grad());
        assert_close(&gradients.keys, &keys.grad());
        assert_close(&gradients.values, &values.grad());
    }

    #[rstest]
    #[case(PLAIN)]
    #[case(Settings { window: Some(5), ..PLAIN })]
    #[case(Settings { window: Some(17), ..PLAIN })]
    #[case(Settings { soft_cap: Some(0.7), ..PLAIN })]
    #[case(Settings { soft_cap: Some(0.7), window: Some(2), scale: 1.3, dropout: None })]
    #[case(with_dropout(PLAIN))]
    #[case(with_dropout(Settings { soft_cap: Some(0.7), ..PLAIN }))]
    fn equals_automatic_differentiation(#[case] settings: Settings) {
        compare(17, true, settings);
    }

    #[rstest]
    #[case(PLAIN)]
    #[case(Settings { soft_cap: Some(0.7), window: Some(100), ..PLAIN })]
    #[case(with_dropout(PLAIN))]
    fn equals_automatic_differentiation_where_the_probabilities_are_computed_again(
        #[case] settings: Settings,
    ) {
        compare(KEEP_PROBABILITIES_BELOW, false, settings);
    }

    #[test]
    fn the_last_query_after_a_cache_sees_the_last_keys_of_its_window() {
        let queries = random(&[1, 1, 1, 2, 4], 1).detach();
        let [keys, values] = [2, 3].map(|seed| random(&[1, 1, 9, 4], seed).detach());
        let settings = Settings {
            window: Some(3),
            ..PLAIN
        };
        let (output, _) = forward(
            queries.shallow_clone(),
            keys.shallow_clone(),
            values.shallow_clone(),
            settings,
        )
        .unwrap();
        // Without a window, over the three keys that the window leaves.
        let (last, _) = forward(
            queries.narrow(3, 1, 1).contiguous(),
            keys.narrow(2, 6, 3).contiguous(),
            values.narrow(2, 6, 3).contiguous(),
            PLAIN,
        )
        .unwrap();
        assert_close(&output.narrow(0, 1, 1), &last);
    }
}
