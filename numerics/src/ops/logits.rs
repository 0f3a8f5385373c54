//! The output head of inference: logits in fp32, also from weights in bfloat16.
//!
//! libtorch's product of bfloat16 rounds its result: logits near 16 come in steps of 1/8, so that the likeliest tokens tie
//! and log-probabilities are off by half a step. Here the sums stay in fp32.

use half::bf16;
use tch::{Kind, Tensor};

use super::Result;
use super::widening_product::times_transposed;
use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::cpu::memory::{self, Element, slice, slice_mut};

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
    if hidden.f_kind()? == Kind::Float || hidden.size()[0] > FEW {
        return times_transposed(hidden, head);
    }
    few(&hidden.f_to_kind(Kind::Float)?.f_contiguous()?, head)
}

fn few(hidden: &Tensor, head: &Tensor) -> Result<Tensor> {
    let (rows, vocabulary) = (hidden.size()[0], head.size()[0]);
    let mut logits = memory::empty::<f32>(&[rows, vocabulary])?;
    let (hidden, head) = (slice::<f32>(hidden)?, slice::<bf16>(head)?);
    let width = head.len() / vocabulary as usize;
    let each = kernel::rows_per_part(width);
    let mut kernels = Vec::new();
    for (logits, hidden) in slice_mut::<f32>(&mut logits)?
        .chunks_exact_mut(vocabulary as usize)
        .zip(hidden.chunks_exact(width))
    {
        let parts = logits.chunks_mut(each).zip(head.chunks(each * width));
        kernels.extend(parts.map(|(logits, head)| Dots {
            hidden,
            head,
            logits,
        }));
    }
    kernel::run_all(kernels);
    Ok(logits)
}

/// The products of some rows of the head with one hidden row.
struct Dots<'a> {
    hidden: &'a [f32],
    head: &'a [bf16],
    logits: &'a mut [f32],
}

impl Kernel for Dots<'_> {
    #[inline(always)]
    fn run(self) {
        for (logit, row) in self
            .logits
            .iter_mut()
            .zip(self.head.chunks_exact(self.hidden.len()))
        {
            *logit = dot(self.hidden, row);
        }
    }
}

#[inline(always)]
fn dot(hidden: &[f32], row: &[bf16]) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0.0f32; LANES];
    let (hidden, row) = (hidden.chunks_exact(LANES), row.chunks_exact(LANES));
    let rest = hidden.remainder().iter().zip(row.remainder());
    let rest: f32 = rest.map(|(x, weight)| x * weight.widen()).sum();
    for (hidden, row) in hidden.zip(row) {
        for lane in 0..LANES {
            sums[lane] += hidden[lane] * row[lane].widen();
        }
    }
    rest + sums.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
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
