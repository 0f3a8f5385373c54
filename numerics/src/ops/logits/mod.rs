//! The output head of inference: logits in fp32, also from weights in bfloat16.
//!
//! libtorch's product of bfloat16 rounds its result: logits near 16 come in steps of 1/8, so that the likeliest tokens tie
//! and log-probabilities are off by half a step. Here the sums stay in fp32.

mod cpu;

use tch::Tensor;

use super::Result;
use super::side::Side;
use crate::ops::product::widening_product::times_transposed;

/// Up to so many hidden rows, reading the weights once is faster than a product that rearranges them first.
const FEW: i64 = 4;

/// What a family does to logits before the softmax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitSettings {
    /// What they are multiplied by.
    pub multiplier: Option<f64>,
    /// c of c·tanh(logit / c), after the multiplication.
    pub soft_cap: Option<f64>,
}

impl LogitSettings {
    /// Nothing.
    pub const PLAIN: Self = Self {
        multiplier: None,
        soft_cap: None,
    };
}

/// hidden (M, H) and head (V, H) of one type to logits (M, V) in fp32.
pub fn forward(hidden: &Tensor, head: &Tensor, settings: LogitSettings) -> Result<Tensor> {
    let mut logits = product(hidden, head)?;
    if let Some(multiplier) = settings.multiplier {
        logits = logits.f_mul_scalar_(multiplier)?;
    }
    Ok(match settings.soft_cap {
        None => logits,
        Some(cap) => logits.f_div_scalar_(cap)?.f_tanh_()?.f_mul_scalar_(cap)?,
    })
}

fn product(hidden: &Tensor, head: &Tensor) -> Result<Tensor> {
    match Side::of(hidden, "hidden rows")? {
        Side::CpuBrain if hidden.size()[0] <= FEW => cpu::few(hidden, head),
        Side::CpuBrain | Side::CpuFloat => times_transposed(hidden, head),
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::ops::test_support::random;

    #[test]
    fn products_of_bfloat16_are_summed_and_kept_in_fp32() {
        for rows in [1, 3, FEW + 1] {
            let hidden = random(&[rows, 72], 1).to_kind(Kind::BFloat16);
            let head = random(&[5000, 72], 2).to_kind(Kind::BFloat16);
            let exact = hidden
                .to_kind(Kind::Double)
                .mm(&head.to_kind(Kind::Double).tr());
            let error = |logits: &Tensor| {
                (logits.to_kind(Kind::Double) - &exact)
                    .abs()
                    .max()
                    .double_value(&[])
            };
            let found = forward(&hidden, &head, LogitSettings::PLAIN).unwrap();
            assert_eq!(found.size(), [rows, 5000]);
            assert!(error(&found) < 1e-4, "{}", error(&found));
            assert!(
                error(&hidden.mm(&head.tr())) > 1e-2,
                "rounding would not be seen"
            );
        }
    }
}
