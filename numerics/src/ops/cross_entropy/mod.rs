//! The loss: -log p(target), summed, over chunks of rows so that the (M, V) logits never exist together.
//!
//! The gradient for the hidden rows is made along with the loss, chunk by chunk, while the logits are at hand. Rows without a
//! target cost nothing. Logits and softmax are in fp32 whatever the type of the activations: rounded to bfloat16, the likeliest
//! tokens tie and log-probabilities are off by half a step, which near 16 is 1/16.

mod cpu;

use tch::{Kind, Tensor};

use self::cpu::{losses, losses_and_gradient};

use super::Result;
use super::logits::{self, LogitSettings};
use super::trained::Gradient;
use crate::ops::cpu::widening_product::times_transposed;

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
