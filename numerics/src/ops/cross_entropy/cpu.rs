//! Losses of hidden rows and their gradients on the CPU: a chunk's logits, one loop over them, and their product with the head.

use half::bf16;
use tch::{Kind, Tensor};

use super::softmax::Softmax;
use super::{Head, LossSum};
use crate::ops::cpu::kernel;
use crate::ops::cpu::lanes::{self, Lanes, LanesKernel};
use crate::ops::cpu::memory::{self, Element, slice_mut};
use crate::ops::cpu::threads;
use crate::ops::product::matmul::{is_own, matmul};
use crate::ops::product::panel::Matrix;
use crate::ops::product::widening_product::{times_transposed, times_transposed_into};
use crate::ops::{Error, Result};

/// The most logits held at once: 32 MiB in fp32, and half as much for their gradient in bfloat16.
const CHUNK_LOGITS: i64 = 8 << 20;

/// Adds the losses of hidden rows (K, H), at least one, to `sum`. With a scale, the gradient of scale x loss for them; that for the
/// head is added to, if it is trained.
pub(super) fn passes(
    rows: &Tensor,
    head: Head<'_>,
    targets: &Tensor,
    scale: Option<f64>,
    sum: &mut LossSum,
) -> Result<Option<Tensor>> {
    let (count, vocabulary) = (rows.size()[0], head.matrix.size()[0]);
    let cap = head.settings.soft_cap.map(|cap| cap as f32);
    let targets = Vec::<i64>::try_from(targets)?;
    let each = (CHUNK_LOGITS / vocabulary).clamp(1, count);
    let buffer = memory::empty::<f32>(&[each, vocabulary])?;
    let mut total = Total::default();
    let mut d_rows = Vec::new();
    for (start, targets) in (0..count)
        .step_by(each as usize)
        .zip(targets.chunks(each as usize))
    {
        let length = targets.len() as i64;
        let hidden = rows.f_narrow(0, start, length)?;
        let mut logits = buffer.f_narrow(0, 0, length)?; // (m, V)
        times_transposed_into(&mut logits, &hidden, head.matrix)?;
        let Some(scale) = scale else {
            total.add(&losses_into::<f32>(
                &mut logits,
                targets,
                cap,
                Gradients::None,
            )?);
            continue;
        };
        d_rows.push(match rows.f_kind()? {
            kind if kind == Kind::Float || is_own(kind) => {
                let gradients = Gradients::OverLogits(scale as f32);
                total.add(&losses_into::<f32>(&mut logits, targets, cap, gradients)?);
                backward(&logits, &hidden, head, kind)?
            }
            Kind::BFloat16 => {
                let mut d_logits = memory::empty::<bf16>(&[length, vocabulary])?;
                let gradients = Gradients::Into(scale as f32, slice_mut(&mut d_logits)?);
                total.add(&losses_into::<bf16>(&mut logits, targets, cap, gradients)?);
                backward(&d_logits, &hidden, head, Kind::BFloat16)?
            }
            other => {
                return Err(Error::Libtorch(format!(
                    "hidden rows of {other:?}, expected Float or BFloat16"
                )));
            }
        });
    }
    let found = Tensor::f_from_slice(&[total.loss, total.correct])?;
    let _ = sum.values.f_add_(&found)?;
    (!d_rows.is_empty())
        .then(|| Ok(Tensor::f_cat(&d_rows, 0)?))
        .transpose()
}

/// The loss of each of hidden rows (K, H), at least one.
pub(super) fn losses(rows: &Tensor, head: Head<'_>, targets: &Tensor) -> Result<Vec<f64>> {
    let vocabulary = head.matrix.size()[0];
    let cap = head.settings.soft_cap.map(|cap| cap as f32);
    let targets = Vec::<i64>::try_from(targets)?;
    let each = (CHUNK_LOGITS / vocabulary).clamp(1, rows.size()[0]);
    let mut found = Vec::with_capacity(targets.len());
    for (start, targets) in (0..)
        .step_by(each as usize)
        .zip(targets.chunks(each as usize))
    {
        let hidden = rows.f_narrow(0, start, targets.len() as i64)?;
        let mut logits = times_transposed(&hidden, head.matrix)?; // (m, V)
        let losses = losses_into::<f32>(&mut logits, targets, cap, Gradients::None)?;
        found.extend(losses.into_iter().map(|(loss, _)| loss));
    }
    Ok(found)
}

/// What rows' losses come to.
#[derive(Default)]
struct Total {
    loss: f64,
    correct: f64,
}

impl Total {
    fn add(&mut self, losses: &[(f64, bool)]) {
        for (loss, is_likeliest) in losses {
            self.loss += loss;
            self.correct += f64::from(u8::from(*is_likeliest));
        }
    }
}

/// The gradient for some rows (m, H), in `kind`, from that for their logits (m, V); that for the head is added to.
fn backward(d_logits: &Tensor, hidden: &Tensor, head: Head<'_>, kind: Kind) -> Result<Tensor> {
    let of_logits = d_logits.f_kind()?;
    if let Some(gradient) = head.gradient {
        gradient.add_product(&d_logits.f_tr()?, &hidden.f_to_kind(of_logits)?)?;
    }
    if of_logits == head.matrix.f_kind()? {
        return Ok(d_logits.f_mm(head.matrix)?);
    }
    let matrix = Matrix::of(head.matrix, false)?;
    matmul(d_logits, matrix.direct(), hidden.size()[1], kind)
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

/// Of each row of logits (m, V) the loss, and whether its target is the likeliest. What is left in the logits, if it is not their
/// gradient, has no meaning.
fn losses_into<T: Element>(
    logits: &mut Tensor,
    targets: &[i64],
    cap: Option<f32>,
    mut gradients: Gradients<'_, T>,
) -> Result<Vec<(f64, bool)>> {
    let vocabulary = logits.size()[1] as usize;
    let mut losses = vec![(0.0, false); targets.len()];
    let length = kernel::rows_per_part(vocabulary);
    let parts = slice_mut::<f32>(logits)?
        .chunks_mut(length * vocabulary)
        .zip(targets.chunks(length))
        .zip(losses.chunks_mut(length));
    let mut tasks = Vec::new();
    for ((logits, targets), losses) in parts {
        let (own, rest) = gradients.split(logits.len());
        gradients = rest;
        tasks.push(RowLosses {
            logits,
            vocabulary,
            targets,
            cap,
            losses,
            gradients: own,
        });
    }
    threads::run_all(tasks, lanes::run);
    Ok(losses)
}

struct RowLosses<'a, T> {
    logits: &'a mut [f32],
    vocabulary: usize,
    targets: &'a [i64],
    cap: Option<f32>,
    /// Of each row the loss, and whether the target is the likeliest.
    losses: &'a mut [(f64, bool)],
    gradients: Gradients<'a, T>,
}

impl<T: Element> LanesKernel for RowLosses<'_, T> {
    #[inline(always)]
    fn run<L: Lanes>(mut self) {
        for row in 0..self.targets.len() {
            let target = self.targets[row] as usize;
            let start = row * self.vocabulary;
            let logits = &mut self.logits[start..start + self.vocabulary];
            let softmax = Softmax::of::<L>(logits, target, self.cap);
            self.losses[row] = (softmax.loss, softmax.is_likeliest);
            match &mut self.gradients {
                Gradients::None => {}
                Gradients::OverLogits(scale) => softmax.gradient::<L>(logits, target, *scale),
                Gradients::Into(scale, gradients) => {
                    softmax.gradient::<L>(logits, target, *scale);
                    let gradients = &mut gradients[start..start + self.vocabulary];
                    for at in 0..gradients.len() {
                        gradients[at] = T::round(logits[at]);
                    }
                }
            }
        }
    }
}
