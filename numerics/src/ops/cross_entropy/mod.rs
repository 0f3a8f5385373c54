//! The loss: -log p(target), summed, over chunks of rows so that the (M, V) logits never exist together.
//!
//! The gradient for the hidden rows is made along with the loss, chunk by chunk, while the logits are at hand. Rows without a
//! target cost nothing. Logits and softmax are in fp32 whatever the type of the activations: rounded to bfloat16, the likeliest
//! tokens tie and log-probabilities are off by half a step, which near 16 is 1/16. Saves nothing: there is no backward of its own.

mod cpu;
mod softmax;
mod sum;
mod targets;

use tch::Tensor;

pub use self::sum::{LossSum, Losses};
pub use self::targets::{IGNORED, Targets};

use super::Result;
use super::logits::LogitSettings;
use super::side::Side;
use super::trained::Gradient;

/// What the loss is of: hidden rows (M, H) under the output matrix (V, H), of one type.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// (V, H).
    pub matrix: &'a Tensor,
    /// That of the matrix, if it is trained (V, H).
    pub gradient: Option<&'a Gradient>,
    /// What becomes of logits before the softmax.
    pub settings: LogitSettings,
}

/// The loss of hidden rows (M, H).
pub fn loss(hidden: &Tensor, head: Head<'_>, targets: &Targets) -> Result<LossSum> {
    Ok(passes(hidden, head, targets, None)?.0)
}

/// The same loss, unscaled, and the gradient of `scale` x loss for hidden (M, H); that for the output matrix is added to, if it is
/// trained.
///
/// With p = softmax(c·tanh(z / c)) of logits z, or softmax(z) without a cap, the gradient for z is scale·(p - one-hot(target)),
/// times 1 - tanh²(z / c).
pub fn loss_and_gradient(
    hidden: &Tensor,
    head: Head<'_>,
    targets: &Targets,
    scale: f64,
) -> Result<(LossSum, Tensor)> {
    let (sum, d_rows) = passes(hidden, head, targets, Some(scale))?;
    let d_hidden = hidden.f_zeros_like()?;
    Ok(match d_rows {
        None => (sum, d_hidden),
        Some(d_rows) => (sum, d_hidden.f_index_copy(0, &targets.rows, &d_rows)?),
    })
}

/// The sum and, with a scale and where a row carries loss, the gradient for the rows that do (K, H).
fn passes(
    hidden: &Tensor,
    head: Head<'_>,
    targets: &Targets,
    scale: Option<f64>,
) -> Result<(LossSum, Option<Tensor>)> {
    targets.check(head.matrix.size()[0])?;
    let mut sum = LossSum::zero(targets.count(), hidden.device())?;
    if targets.count() == 0 {
        return Ok((sum, None));
    }
    let multiplier = head.settings.multiplier;
    // Hidden rows times the multiplier are as good as logits times it, for fewer numbers.
    let rows = times(hidden.f_index_select(0, &targets.rows)?, multiplier)?;
    let d_rows = match Side::of(hidden, "hidden rows")? {
        Side::CpuFloat | Side::CpuBrain => {
            cpu::passes(&rows, head, &targets.tokens, scale, &mut sum)?
        }
    };
    let d_rows = d_rows.map(|d_rows| times(d_rows, multiplier));
    Ok((sum, d_rows.transpose()?))
}

/// log p of the target of each hidden row (M, H) that has one, in nats. Cost: a product of these rows with the whole head, and no
/// more than a chunk of its logits at a time.
pub fn log_probabilities(hidden: &Tensor, head: Head<'_>, targets: &Targets) -> Result<Vec<f64>> {
    targets.check(head.matrix.size()[0])?;
    if targets.count() == 0 {
        return Ok(Vec::new());
    }
    let rows = hidden.f_index_select(0, &targets.rows)?;
    let rows = times(rows, head.settings.multiplier)?;
    let losses = match Side::of(hidden, "hidden rows")? {
        Side::CpuFloat | Side::CpuBrain => cpu::losses(&rows, head, &targets.tokens)?,
    };
    Ok(losses.into_iter().map(|loss| -loss).collect())
}

/// In place.
fn times(mut tensor: Tensor, factor: Option<f64>) -> Result<Tensor> {
    Ok(match factor {
        None => tensor,
        Some(factor) => tensor.f_mul_scalar_(factor)?,
    })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rstest::rstest;
    use tch::Kind;

    use super::*;
    use crate::ops::test_support::{FLOAT, assert_close, random};

    fn frozen(matrix: &Tensor) -> Head<'_> {
        Head {
            matrix,
            gradient: None,
            settings: LogitSettings::PLAIN,
        }
    }

    /// The loss, which is the same with and without its gradient.
    fn both(hidden: &Tensor, matrix: &Tensor, targets: &Targets) -> Losses {
        let sum = loss(hidden, frozen(matrix), targets)
            .unwrap()
            .read()
            .unwrap();
        let (same, _) = loss_and_gradient(hidden, frozen(matrix), targets, 1.0).unwrap();
        assert_eq!(same.read().unwrap(), sum);
        let each = log_probabilities(hidden, frozen(matrix), targets).unwrap();
        assert_eq!(each.len() as i64, targets.count());
        assert!((each.iter().sum::<f64>() + sum.loss).abs() < 1e-9 * sum.loss.abs());
        sum
    }

    #[rstest]
    #[case(LogitSettings::PLAIN)]
    #[case(LogitSettings { multiplier: Some(0.6), soft_cap: Some(1.5) })]
    fn equals_automatic_differentiation(#[case] settings: LogitSettings) {
        let hidden = random(&[6, 8], 1).set_requires_grad(true);
        let head = random(&[20, 8], 2).set_requires_grad(true);
        let all = [3_i64, IGNORED, 0, 19, IGNORED, 7];
        let targets = Targets::new(&all).unwrap();
        let mut logits = hidden.mm(&head.tr()) * settings.multiplier.unwrap_or(1.0);
        if let Some(cap) = settings.soft_cap {
            logits = (logits / cap).tanh() * cap;
        }
        let expected = logits.cross_entropy_loss(
            &Tensor::from_slice(&all),
            None::<Tensor>,
            tch::Reduction::Sum,
            IGNORED,
            0.0,
        );
        (&expected * 0.25).backward();

        let (hidden_value, head_value) = (hidden.detach(), head.detach());
        let d_head = Tensor::zeros([20, 8], FLOAT);
        let gradient = Gradient::alone(&d_head);
        let head_value = Head {
            matrix: &head_value,
            gradient: Some(&gradient),
            settings,
        };
        let (sum, d_hidden) = loss_and_gradient(&hidden_value, head_value, &targets, 0.25).unwrap();
        let sum = sum.read().unwrap();
        assert_eq!(sum.tokens, 4);
        assert!((sum.loss / expected.double_value(&[]) - 1.0).abs() < 1e-5);
        let alone = loss(&hidden_value, head_value, &targets).unwrap();
        assert!((alone.read().unwrap().loss / sum.loss - 1.0).abs() < 1e-12);
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
        let targets = Targets::new(&[1, 0, 1, IGNORED]).unwrap();
        for kind in [Kind::Float, Kind::BFloat16] {
            let hidden = Tensor::from_slice2(&hidden).to_kind(kind);
            let head = Tensor::eye(3, (kind, tch::Device::Cpu));
            let sum = both(&hidden, &head, &targets);
            assert_eq!((sum.correct, sum.tokens), (2, 3));
        }
    }

    /// Hidden rows, a head and targets as large as real ones: logits reach 16, where bfloat16 has steps of 1/8.
    fn of_a_real_size(rows: i64) -> (Tensor, Tensor, Vec<i64>) {
        let hidden = random(&[rows, 64], 1).to_kind(Kind::BFloat16);
        let head = (random(&[500, 64], 2) * 0.7).to_kind(Kind::BFloat16);
        let mut generator = ChaCha8Rng::seed_from_u64(3);
        let targets: Vec<i64> = (0..rows).map(|_| generator.random_range(0..500)).collect();
        (hidden, head, targets)
    }

    #[test]
    fn logits_that_differ_by_less_than_a_step_of_bfloat16_are_told_apart() {
        // Logits 16 and 16 + 1/32 are both 16 in bfloat16, whose next number is 16 + 1/8; the target is the second.
        let hidden = Tensor::from_slice2(&[[4.0_f32, 0.125]]).to_kind(Kind::BFloat16);
        let head = Tensor::from_slice2(&[[4.0_f32, 0.0], [4.0, 0.25]]).to_kind(Kind::BFloat16);
        for (target, correct) in [(0_i64, 0), (1, 1)] {
            let sum = both(&hidden, &head, &Targets::new(&[target]).unwrap());
            assert_eq!(sum.correct, correct, "target {target}");
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
            let loss = double(logits).cross_entropy_loss(
                &Tensor::from_slice(&targets),
                None::<Tensor>,
                sum,
                IGNORED,
                0.0,
            );
            loss.double_value(&[])
        };
        let exact = of(&double(&hidden).mm(&double(&head).tr()));
        let rounded = of(&hidden.mm(&head.tr()));
        assert!((rounded - exact).abs() > 0.01, "rounding would not be seen");
        let found = both(&hidden, &head, &Targets::new(&targets).unwrap());
        assert!((found.loss - exact).abs() < 1e-3, "{} {exact}", found.loss);
    }

    #[rstest]
    #[case(LogitSettings::PLAIN)]
    #[case(LogitSettings { multiplier: None, soft_cap: Some(9.0) })]
    fn a_gradient_in_bfloat16_is_that_of_fp32_but_for_its_rounding(
        #[case] settings: LogitSettings,
    ) {
        let (hidden, head, targets) = of_a_real_size(40);
        let targets = Targets::new(&targets).unwrap();
        let of = |kind: Kind| {
            let (hidden, matrix) = (hidden.to_kind(kind), head.to_kind(kind));
            let head = Head {
                settings,
                ..frozen(&matrix)
            };
            let (sum, d_hidden) = loss_and_gradient(&hidden, head, &targets, 0.1).unwrap();
            assert_eq!(d_hidden.kind(), kind);
            (sum.read().unwrap(), d_hidden.to_kind(Kind::Double))
        };
        let ((sum, d_hidden), (exact_sum, exact)) = (of(Kind::BFloat16), of(Kind::Float));
        assert!((sum.loss / exact_sum.loss - 1.0).abs() < 1e-5);
        assert_eq!(sum.correct, exact_sum.correct);
        let off = (d_hidden - &exact).norm().double_value(&[]);
        assert!(off < 0.01 * exact.norm().double_value(&[]), "{off}");
    }
}
