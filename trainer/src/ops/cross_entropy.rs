//! The loss: -log p(target), summed, over chunks of rows so that the (M, V) logits never exist together.
//!
//! The gradient for the hidden rows is made along with the loss, chunk by chunk, while the logits are at hand, and written over
//! them. Rows without a target cost nothing. The softmax is in fp32 whatever the type of the activations.

use half::bf16;
use tch::{Kind, Tensor};

use super::kernel::{self, Kernel, exp};
use super::linear::add_product;
use super::memory::{Element, slice_mut};
use super::{Error, Result, logits};

/// The target of a row that carries no loss.
pub const IGNORED: i64 = -100;

/// The most logits held at once: 32 MiB in fp32.
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
    settings: logits::Settings,
) -> Result<LossSum> {
    let rows = Rows::with_targets(hidden, targets, settings)?;
    let mut sum = LossSum::of(rows.count);
    for (hidden, targets) in rows.chunks(head)? {
        let (mut logits, _) = capped(hidden.f_mm(&head.f_tr()?)?, settings)?; // (m, V)
        losses(&mut logits, &targets, None, &mut sum)?;
    }
    Ok(sum)
}

/// The same loss, unscaled, and the gradient of `scale` x loss for hidden (M, H); `head_gradient` (V, H) in fp32 is added
/// to, if the output matrix is trained.
pub fn loss_and_gradient(
    hidden: &Tensor,
    head: &Tensor,
    head_gradient: Option<&Tensor>,
    targets: &Tensor,
    settings: logits::Settings,
    scale: f64,
) -> Result<(LossSum, Tensor)> {
    let rows = Rows::with_targets(hidden, targets, settings)?;
    let d_hidden = hidden.f_zeros_like()?;
    let mut d_rows = Vec::new();
    let mut sum = LossSum::of(rows.count);
    for (hidden, targets) in rows.chunks(head)? {
        let (mut logits, tanh) = capped(hidden.f_mm(&head.f_tr()?)?, settings)?; // (m, V)
        losses(&mut logits, &targets, Some(scale), &mut sum)?;
        let d_logits = match tanh {
            None => logits,
            // tanh' = 1 - tanh²
            Some(tanh) => logits.f_sub(&tanh.f_square()?.f_mul_(&logits)?)?,
        };
        d_rows.push(d_logits.f_mm(head)?); // (m, H)
        if let Some(head_gradient) = head_gradient {
            add_product(head_gradient, &d_logits.f_tr()?, &hidden)?;
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
    settings: logits::Settings,
) -> Result<Tensor> {
    Ok(logits::forward(hidden, head, settings)?.f_log_softmax(-1, Kind::Float)?)
}

/// Logits as they enter the softmax and, where they are capped, the tanh that its backward needs.
fn capped(mut logits: Tensor, settings: logits::Settings) -> Result<(Tensor, Option<Tensor>)> {
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

/// Adds the losses of some rows of logits (m, V) to `sum`. With a scale, the logits are overwritten by the gradient of scale
/// x loss.
fn losses(
    logits: &mut Tensor,
    targets: &Tensor,
    scale: Option<f64>,
    sum: &mut LossSum,
) -> Result<()> {
    match logits.f_kind()? {
        Kind::BFloat16 => losses_in::<bf16>(logits, targets, scale, sum),
        Kind::Float => losses_in::<f32>(logits, targets, scale, sum),
        other => Err(Error::Libtorch(format!(
            "logits of {other:?}, expected Float or BFloat16"
        ))),
    }
}

fn losses_in<T: Element>(
    logits: &mut Tensor,
    targets: &Tensor,
    scale: Option<f64>,
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
    let length = kernel::rows_per_thread(rows, vocabulary);
    let parts = slice_mut::<T>(logits)?
        .chunks_mut(length * vocabulary)
        .zip(targets.chunks(length))
        .zip(losses.chunks_mut(length));
    let scale = scale.map(|scale| scale as f32);
    kernel::run_all(
        parts
            .map(|((logits, targets), losses)| Losses {
                logits,
                targets,
                losses,
                scale,
            })
            .collect(),
    );
    sum.loss += losses.iter().map(|(loss, _)| loss).sum::<f64>();
    sum.correct += losses.iter().filter(|(_, correct)| *correct).count() as i64;
    Ok(())
}

struct Losses<'a, T> {
    logits: &'a mut [T],
    targets: &'a [i64],
    /// Of each row the loss, and whether the target has the greatest logit; of equal ones the first counts.
    losses: &'a mut [(f64, bool)],
    scale: Option<f32>,
}

impl<T: Element> Kernel for Losses<'_, T> {
    #[inline(always)]
    fn run(self) {
        const LANES: usize = 16;
        let vocabulary = self.logits.len() / self.targets.len();
        let mut powers = vec![0.0_f32; vocabulary];
        let rows = self
            .logits
            .chunks_exact_mut(vocabulary)
            .zip(self.targets)
            .zip(self.losses);
        for ((logits, &target), loss) in rows {
            let mut largest = [f32::NEG_INFINITY; LANES];
            let (chunks, rest) = logits.as_chunks::<LANES>();
            for chunk in chunks {
                for lane in 0..LANES {
                    largest[lane] = largest[lane].max(chunk[lane].widen());
                }
            }
            let rest = rest.iter().map(|logit| logit.widen());
            let largest = largest
                .into_iter()
                .chain(rest)
                .fold(f32::NEG_INFINITY, f32::max);
            for (power, logit) in powers.iter_mut().zip(&*logits) {
                *power = exp(logit.widen() - largest);
            }
            let mut sums = [0.0_f32; LANES];
            let (chunks, rest) = powers.as_chunks::<LANES>();
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
            let picked = logits[target as usize].widen();
            let first = |logits: &[T]| logits.iter().all(|logit| logit.widen() < largest);
            *loss = (
                sum.ln() + f64::from(largest) - f64::from(picked),
                picked >= largest && first(&logits[..target as usize]),
            );
            if let Some(scale) = self.scale {
                // softmax - one-hot
                let factor = (f64::from(scale) / sum) as f32;
                for (logit, power) in logits.iter_mut().zip(&powers) {
                    *logit = T::round(power * factor);
                }
                logits[target as usize] = T::round(powers[target as usize] * factor - scale);
            }
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
    fn with_targets(hidden: &Tensor, targets: &Tensor, settings: logits::Settings) -> Result<Self> {
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
    use rstest::rstest;
    use tch::Device;

    use super::*;

    #[rstest]
    #[case(logits::Settings::PLAIN)]
    #[case(logits::Settings { multiplier: Some(0.6), soft_cap: Some(1.5) })]
    fn equals_automatic_differentiation(#[case] settings: logits::Settings) {
        tch::manual_seed(1);
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let hidden = random(&[6, 8]).set_requires_grad(true);
        let head = random(&[20, 8]).set_requires_grad(true);
        let targets = Tensor::from_slice(&[3_i64, IGNORED, 0, 19, IGNORED, 7]);
        let mut logits = hidden.mm(&head.tr()) * settings.multiplier.unwrap_or(1.0);
        if let Some(cap) = settings.soft_cap {
            logits = (logits / cap).tanh() * cap;
        }
        let expected =
            logits.cross_entropy_loss(&targets, None::<Tensor>, tch::Reduction::Sum, IGNORED, 0.0);
        (&expected * 0.25).backward();

        let (hidden_value, head_value) = (hidden.detach(), head.detach());
        let d_head = Tensor::zeros([20, 8], (Kind::Float, Device::Cpu));
        let (sum, d_hidden) = loss_and_gradient(
            &hidden_value,
            &head_value,
            Some(&d_head),
            &targets,
            settings,
            0.25,
        )
        .unwrap();
        assert_eq!(sum.tokens, 4);
        assert!((sum.loss / expected.double_value(&[]) - 1.0).abs() < 1e-6);
        let alone = loss(&hidden_value, &head_value, &targets, settings).unwrap();
        assert!((alone.loss / sum.loss - 1.0).abs() < 1e-12);
        for (ours, expected) in [(d_hidden, hidden.grad()), (d_head, head.grad())] {
            let difference = (ours - expected).abs().max().double_value(&[]);
            assert!(difference < 1e-6, "{difference}");
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
        let plain = logits::Settings::PLAIN;
        for kind in [Kind::Float, Kind::BFloat16] {
            let hidden = Tensor::from_slice2(&hidden).to_kind(kind);
            let head = Tensor::eye(3, (kind, tch::Device::Cpu));
            let sum = loss(&hidden, &head, &targets, plain).unwrap();
            assert_eq!((sum.correct, sum.tokens), (2, 3));
            let (same, _) = loss_and_gradient(&hidden, &head, None, &targets, plain, 1.0).unwrap();
            assert_eq!(same, sum);
        }
    }
}
