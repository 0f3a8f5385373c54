//! Losses of rows of logits, and their gradients, on the CPU.

use half::bf16;
use tch::{Kind, Tensor};

use super::{IGNORED, LossSum};
use crate::ops::cpu::kernel::{self, Kernel, exp};
use crate::ops::cpu::memory::{self, Element, slice_mut};
use crate::ops::{Error, Result};

/// Adds the losses of some rows of logits (m, V), fp32, to `sum`. What is left in the logits has no meaning.
pub(super) fn losses(logits: &mut Tensor, targets: &Tensor, sum: &mut LossSum) -> Result<()> {
    losses_into::<f32>(logits, targets, Gradients::None, sum)
}

/// The same, and the gradient of scale x loss for the logits, in `kind`.
pub(super) fn losses_and_gradient(
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
