//! The loss: -log p(target), summed, over chunks of rows so that the (M, V) logits never exist together.
//!
//! The gradient for the hidden rows is made along with the loss, chunk by chunk, while the logits are at hand. Rows without a
//! target cost nothing. Logits and softmax are in fp32 whatever the type of the activations: rounded to bfloat16, the likeliest
//! tokens tie and log-probabilities are off by half a step, which near 16 is 1/16.

use half::bf16;
use tch::{Kind, Tensor};

use super::logits::{self, LogitSettings};
use super::trained::Gradient;
use super::widening_product::times_transposed;
use super::{Error, Result};
use crate::ops::cpu::kernel::{self, Kernel, exp};
use crate::ops::cpu::memory::{self, Element, slice_mut};

/// The target of a row that carries no loss.
pub const IGNORED: i64 = -100;

/// The most logits held at once: 32 MiB in fp32, and half as much for their gradient in bfloat16.
const CHUNK_LOGITS: i64 = 8 << 20;

/// The sum of token losses and the number of tokens in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossSum {
    /// The sum over tokens of -log p, in nats.
    pub loss: f64,
    /// The tokens that carry loss.
    pub tokens: i64,
    /// Those of them that are the likeliest of all.
    pub correct: i64,
}

/// The loss of hidden rows (M, H) under the output matrix (V, H) against targets (M).
pub fn loss(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    settings: LogitSettings,
) -> Result<LossSum> {
    let rows = Rows::with_targets(hidden, targets, settings)?;
    let mut sum = LossSum::of(rows.count);
    for (hidden, targets) in rows.chunks(head)? {
        let (mut logits, _) = capped(times_transposed(&hidden, head)?, settings)?; // (m, V)
        losses(&mut logits, &targets, &mut sum)?;
    }
    Ok(sum)
}

/// The same loss, unscaled, and the gradient of `scale` x loss for hidden (M, H); that for the output matrix, `head_gradient`
/// (V, H), is added to, if it is trained.
pub fn loss_and_gradient(
    hidden: &Tensor,
    head: &Tensor,
    head_gradient: Option<&Gradient>,
    targets: &Tensor,
    settings: LogitSettings,
    scale: f64,
) -> Result<(LossSum, Tensor)> {
    let kind = hidden.f_kind()?;
    let rows = Rows::with_targets(hidden, targets, settings)?;
    let d_hidden = hidden.f_zeros_like()?;
    let mut d_rows = Vec::new();
    let mut sum = LossSum::of(rows.count);
    for (hidden, targets) in rows.chunks(head)? {
        let (logits, tanh) = capped(times_transposed(&hidden, head)?, settings)?; // (m, V)
        let d_logits = match tanh {
            None => losses_and_gradient(logits, kind, &targets, scale, &mut sum)?,
            Some(tanh) => {
                let d = losses_and_gradient(logits, Kind::Float, &targets, scale, &mut sum)?;
                // tanh' = 1 - tanh²
                d.f_sub(&tanh.f_square()?.f_mul_(&d)?)?.f_to_kind(kind)?
            }
        };
        d_rows.push(d_logits.f_mm(head)?); // (m, H)
        if let Some(head_gradient) = head_gradient {
            head_gradient.add_product(&d_logits.f_tr()?, &hidden)?;
        }
    }
    if d_rows.is_empty() {
        return Ok((sum, d_hidden));
    }
    let d_rows = times(Tensor::f_cat(&d_rows, 0)?, settings.multiplier)?;
    let d_hidden = d_hidden.f_index_copy(0, &rows.index, &d_rows)?;
    Ok((sum, d_hidden))
}

/// log p of every token after each hidden row: (M, V) in fp32.
pub fn log_probabilities(
    hidden: &Tensor,
    head: &Tensor,
    settings: LogitSettings,
) -> Result<Tensor> {
    Ok(logits::forward(hidden, head, settings)?.f_log_softmax(-1, Kind::Float)?)
}

/// Logits as they enter the softmax and, where they are capped, the tanh that its backward needs.
fn capped(mut logits: Tensor, settings: LogitSettings) -> Result<(Tensor, Option<Tensor>)> {
    let Some(cap) = settings.soft_cap else {
        return Ok((logits, None));
    };
    let tanh = logits.f_div_scalar_(cap)?.f_tanh_()?;
    Ok((tanh.f_mul_scalar(cap)?, Some(tanh)))
}

/// In place.
fn times(mut tensor: Tensor, factor: Option<f64>) -> Result<Tensor> {
    Ok(match factor {
        None => tensor,
        Some(factor) => tensor.f_mul_scalar_(factor)?,
    })
}

impl LossSum {
    /// Nothing yet, of so many tokens.
    const fn of(tokens: i64) -> Self {
        Self {
            loss: 0.0,
            tokens,
            correct: 0,
        }
    }
}

/// Adds the losses of some rows of logits (m, V), fp32, to `sum`. What is left in the logits has no meaning.
fn losses(logits: &mut Tensor, targets: &Tensor, sum: &mut LossSum) -> Result<()> {
    losses_into::<f32>(logits, targets, Gradients::None, sum)
}

/// The same, and the gradient of scale x loss for the logits, in `kind`.
fn losses_and_gradient(
    mut logits: Tensor,
    kind: Kind,
    targets: &Tensor,
    scale: f64,
    sum: &mut LossSum,
) -> Result<Tensor> {
    let scale = scale as f32;
    match kind {
        Kind::Float => {
            losses_into::<f32>(&mut logits, targets, Gradients::OverLogits(scale), sum)?;
            Ok(logits)
        }
        Kind::BFloat16 => {
            let mut gradient = memory::empty::<bf16>(&logits.size())?;
            let into = Gradients::Into(scale, slice_mut(&mut gradient)?);
            losses_into::<bf16>(&mut logits, targets, into, sum)?;
            Ok(gradient)
        }
        other => Err(Error::Libtorch(format!(
            "a gradient of {other:?}, expected Float or BFloat16"
        ))),
    }
}

/// Where gradients of scale x loss go.
enum Gradients<'a, T> {
    None,
    OverLogits(f32),
    Into(f32, &'a mut [T]),
}

impl<T> Gradients<'_, T> {
    /// The first `length`, and the rest.
    fn split(self, length: usize) -> (Self, Self) {
        match self {
            Self::None => (Self::None, Self::None),
            Self::OverLogits(scale) => (Self::OverLogits(scale), Self::OverLogits(scale)),
            Self::Into(scale, all) => {
                let (first, rest) = all.split_at_mut(length);
                (Self::Into(scale, first), Self::Into(scale, rest))
            }
        }
    }
}

fn losses_into<T: Element>(
    logits: &mut Tensor,
    targets: &Tensor,
    mut gradients: Gradients<'_, T>,
    sum: &mut LossSum,
) -> Result<()> {
    let (rows, vocabulary) = logits.size2()?;
    let (rows, vocabulary) = (rows as usize, vocabulary as usize);
    let targets = Vec::<i64>::try_from(targets)?;
    if let Some(target) = targets
        .iter()
        .find(|&&target| target < 0 || target >= vocabulary as i64)
    {
        return Err(Error::Input(format!(
            "target {target}, expected 0 to {} or {IGNORED}: the tokenizer belongs to another model",
            vocabulary - 1
        )));
    }
    let mut losses = vec![(0.0, false); rows];
    let length = kernel::rows_per_part(vocabulary);
    let parts = slice_mut::<f32>(logits)?
        .chunks_mut(length * vocabulary)
        .zip(targets.chunks(length))
        .zip(losses.chunks_mut(length));
    let mut kernels = Vec::new();
    for ((logits, targets), losses) in parts {
        let (own, rest) = gradients.split(logits.len());
        gradients = rest;
        kernels.push(Losses {
            logits,
            targets,
            losses,
            gradients: own,
        });
    }
    kernel::run_all(kernels);
    sum.loss += losses.iter().map(|(loss, _)| loss).sum::<f64>();
    sum.correct += losses.iter().filter(|(_, correct)| *correct).count() as i64;
    Ok(())
}

struct Losses<'a, T> {
    logits: &'a mut [f32],
    targets: &'a [i64],
    /// Of each row the loss, and whether the target has the greatest logit; of equal ones the first counts.
    losses: &'a mut [(f64, bool)],
    gradients: Gradients<'a, T>,
}

impl<T: Element> Kernel for Losses<'_, T> {
    #[inline(always)]
    fn run(mut self) {
        let vocabulary = self.logits.len() / self.targets.len();
        let rows = self
            .logits
            .chunks_exact_mut(vocabulary)
            .zip(self.targets)
            .zip(self.losses)
            .enumerate();
        for (row, ((logits, &target), loss)) in rows {
            let target = target as usize;
            let (sum, of_row) = loss_of(logits, target);
            *loss = of_row;
            // softmax - one-hot
            match &mut self.gradients {
                Gradients::None => {}
                Gradients::OverLogits(scale) => {
                    let factor = (f64::from(*scale) / sum) as f32;
                    for power in logits.iter_mut() {
                        *power *= factor;
                    }
                    logits[target] -= *scale;
                }
                Gradients::Into(scale, gradients) => {
                    let factor = (f64::from(*scale) / sum) as f32;
                    let gradients = &mut gradients[row * vocabulary..][..vocabulary];
                    for (gradient, power) in gradients.iter_mut().zip(&*logits) {
                        *gradient = T::round(power * factor);
                    }
                    gradients[target] = T::round(logits[target] * factor - *scale);
                }
            }
        }
    }
}

/// Writes e^(logit - largest) over the logits of a row; returns their sum, and the row's loss with whether the target has the
/// greatest logit.
#[inline(always)]
fn loss_of(logits: &mut [f32], target: usize) -> (f64, (f64, bool)) {
    const LANES: usize = 16;
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            largest[lane] = largest[lane].max(chunk[lane]);
        }
    }
    let largest = largest
        .into_iter()
        .chain(rest.iter().copied())
        .fold(f32::NEG_INFINITY, f32::max);
    let picked = logits[target];
    let is_first = logits[..target].iter().all(|logit| *logit < largest);
    for logit in logits.iter_mut() {
        *logit = exp(*logit - largest);
    }
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
    let sum = sums
        .iter()
        .chain(rest)
        .map(|&part| f64::from(part))
        .sum::<f64>();
    let loss = sum.ln() + f64::from(largest) - f64::from(picked);
    (sum, (loss, picked >= largest && is_first))
}

/// The rows that carry loss.
struct Rows {
    index: Tensor,
    /// Times the multiplier of the logits: the same as multiplying these, for fewer numbers.
    hidden: Tensor,
    targets: Tensor,
    count: i64,
}

impl Rows {
    fn with_targets(hidden: &Tensor, targets: &Tensor, settings: LogitSettings) -> Result<Self> {
        let index = targets.f_ne(IGNORED)?.f_nonzero()?.f_reshape([-1])?;
        Ok(Self {
            hidden: times(hidden.f_index_select(0, &index)?, settings.multiplier)?,
            targets: targets.f_index_select(0, &index)?,
            count: index.size()[0],
            index,
        })
    }

    fn chunks(&self, head: &Tensor) -> Result<Vec<(Tensor, Tensor)>> {
        let length = (CHUNK_LOGITS / head.size()[0]).max(1);
        let mut chunks = Vec::new();
        let mut start = 0;
        while start < self.count {
            let length = length.min(self.count - start);
            chunks.push((
                self.hidden.f_narrow(0, start, length)?,
                self.targets.f_narrow(0, start, length)?,
            ));
            start += length;
        }
        Ok(chunks)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rstest::rstest;

    use super::*;
    use crate::ops::test_support::{FLOAT, assert_close, random};

    #[rstest]
    #[case(LogitSettings::PLAIN)]
    #[case(LogitSettings { multiplier: Some(0.6), soft_cap: Some(1.5) })]
    fn equals_automatic_differentiation(#[case] settings: LogitSettings) {
        let hidden = random(&[6, 8], 1).set_requires_grad(true);
        let head = random(&[20, 8], 2).set_requires_grad(true);
        let targets = Tensor::from_slice(&[3_i64, IGNORED, 0, 19, IGNORED, 7]);
        let mut logits = hidden.mm(&head.tr()) * settings.multiplier.unwrap_or(1.0);
        if let Some(cap) = settings.soft_cap {
            logits = (logits / cap).tanh() * cap;
        }
        let expected =
            logits.cross_entropy_loss(&targets, None::<Tensor>, tch::Reduction::Sum, IGNORED, 0.0);
        (&expected * 0.25).backward();

        let (hidden_value, head_value) = (hidden.detach(), head.detach());
        let d_head = Tensor::zeros([20, 8], FLOAT);
        let gradient = Gradient::new(d_head.shallow_clone());
        let (sum, d_hidden) = loss_and_gradient(
            &hidden_value,
            &head_value,
            Some(&gradient),
            &targets,
            settings,
            0.25,
        )
        .unwrap();
        assert_eq!(sum.tokens, 4);
        assert!((sum.loss / expected.double_value(&[]) - 1.0).abs() < 1e-5);
        let alone = loss(&hidden_value, &head_value, &targets, settings).unwrap();
        assert!((alone.loss / sum.loss - 1.0).abs() < 1e-12);
        for (ours, expected) in [(d_hidden, hidden.grad()), (d_head, head.grad())] {
            assert_close(&ours, &expected);
        }
    }

    #[test]
    fn the_first_of_the_greatest_logits_is_the_models_choice() {
        // With the unit matrix as head, a hidden row is its logits.
        let hidden = [
            [0.0_f32, 2.0, 1.0],
            [2.0, 2.0, 0.0],
            [2.0, 2.0, 0.0],
            [5.0, 0.0, 0.0],
        ];
        let targets = Tensor::from_slice(&[1_i64, 0, 1, IGNORED]);
        let plain = LogitSettings::PLAIN;
        for kind in [Kind::Float, Kind::BFloat16] {
            let hidden = Tensor::from_slice2(&hidden).to_kind(kind);
            let head = Tensor::eye(3, (kind, tch::Device::Cpu));
            let sum = loss(&hidden, &head, &targets, plain).unwrap();
            assert_eq!((sum.correct, sum.tokens), (2, 3));
            let (same, _) = loss_and_gradient(&hidden, &head, None, &targets, plain, 1.0).unwrap();
            assert_eq!(same, sum);
        }
    }

    /// Hidden rows, a head and targets as large as real ones: logits reach 16, where bfloat16 has steps of 1/8.
    fn of_a_real_size(rows: i64) -> (Tensor, Tensor, Tensor) {
        let hidden = random(&[rows, 64], 1).to_kind(Kind::BFloat16);
        let head = (random(&[500, 64], 2) * 0.7).to_kind(Kind::BFloat16);
        let mut generator = ChaCha8Rng::seed_from_u64(3);
        let targets: Vec<i64> = (0..rows).map(|_| generator.random_range(0..500)).collect();
        (hidden, head, Tensor::from_slice(&targets))
    }

    #[test]
    fn logits_that_differ_by_less_than_a_step_of_bfloat16_are_told_apart() {
        // Logits 16 and 16 + 1/32 are both 16 in bfloat16, whose next number is 16 + 1/8; the target is the second.
        let hidden = Tensor::from_slice2(&[[4.0_f32, 0.125]]).to_kind(Kind::BFloat16);
        let head = Tensor::from_slice2(&[[4.0_f32, 0.0], [4.0, 0.25]]).to_kind(Kind::BFloat16);
        for (target, correct) in [(0_i64, 0), (1, 1)] {
            let targets = Tensor::from_slice(&[target]);
            let plain = LogitSettings::PLAIN;
            let sum = loss(&hidden, &head, &targets, plain).unwrap();
            assert_eq!(sum.correct, correct, "target {target}");
            let (same, _) = loss_and_gradient(&hidden, &head, None, &targets, plain, 1.0).unwrap();
            assert_eq!(same, sum);
            let exact = (1.0 + (1.0_f64 / 32.0 * if target == 1 { -1.0 } else { 1.0 }).exp()).ln();
            assert!((sum.loss - exact).abs() < 1e-6, "{} {exact}", sum.loss);
        }
    }

    /// What DPO compares: the sums of 200 tokens' log-probabilities.
    #[test]
    fn the_log_probability_of_an_answer_carries_no_noise_of_rounded_logits() {
        let (hidden, head, targets) = of_a_real_size(200);
        let double = |tensor: &Tensor| tensor.to_kind(Kind::Double);
        let of = |logits: &Tensor| {
            let sum = tch::Reduction::Sum;
            let loss =
                double(logits).cross_entropy_loss(&targets, None::<Tensor>, sum, IGNORED, 0.0);
            loss.double_value(&[])
        };
        let exact = of(&double(&hidden).mm(&double(&head).tr()));
        let rounded = of(&hidden.mm(&head.tr()));
        assert!((rounded - exact).abs() > 0.01, "rounding would not be seen");
        let found = loss(&hidden, &head, &targets, LogitSettings::PLAIN).unwrap();
        assert!((found.loss - exact).abs() < 1e-3, "{} {exact}", found.loss);
    }

    #[rstest]
    #[case(LogitSettings::PLAIN)]
    #[case(LogitSettings { multiplier: None, soft_cap: Some(9.0) })]
    fn a_gradient_in_bfloat16_is_that_of_fp32_but_for_its_rounding(
        #[case] settings: LogitSettings,
    ) {
        let (hidden, head, targets) = of_a_real_size(40);
        let of = |kind: Kind| {
            let (hidden, head) = (hidden.to_kind(kind), head.to_kind(kind));
            let (sum, d_hidden) =
                loss_and_gradient(&hidden, &head, None, &targets, settings, 0.1).unwrap();
            assert_eq!(d_hidden.kind(), kind);
            (sum, d_hidden.to_kind(Kind::Double))
        };
        let ((sum, d_hidden), (exact_sum, exact)) = (of(Kind::BFloat16), of(Kind::Float));
        assert!((sum.loss / exact_sum.loss - 1.0).abs() < 1e-5);
        assert_eq!(sum.correct, exact_sum.correct);
        let off = (d_hidden - &exact).norm().double_value(&[]);
        assert!(off < 0.01 * exact.norm().double_value(&[]), "{off}");
    }
}
