//! Root mean square normalisation, y = x / rms(x) · weight, in fp32 whatever the type of the activations.
//!
//! Zhang and Sennrich, 2019; transformers' `LlamaRMSNorm`, and with an offset of 1 its `GemmaRMSNorm`.

use half::bf16;
use tch::{Kind, Tensor};

use super::profile::{Operation, timed};
use super::trained::Gradient;
use super::{Error, Result};
use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::cpu::memory::{self, Element, slice, slice_mut};

/// What kind of norm it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSettings {
    /// Added to the mean square.
    pub epsilon: f64,
    /// Added to the weight.
    pub offset: f64,
}

/// What the backward needs.
#[derive(Debug)]
pub struct SavedNorm {
    /// The input (M, H).
    input: Tensor,
    /// Weight + offset (H).
    weight: Tensor,
    /// 1 / rms of each row (M).
    inverse: Vec<f32>,
}

/// x (M, H), weight (H) in fp32; returns y (M, H) in the type of x.
pub fn forward(x: &Tensor, weight: &Tensor, settings: NormSettings) -> Result<(Tensor, SavedNorm)> {
    let weight = if settings.offset == 0.0 {
        weight.shallow_clone()
    } else {
        weight.f_add_scalar(settings.offset)?
    };
    let kind = x.f_kind()?;
    timed(Operation::Norm, || match kind {
        Kind::BFloat16 => forward_in::<bf16>(x, weight, settings.epsilon),
        Kind::Float => forward_in::<f32>(x, weight, settings.epsilon),
        other => Err(unsupported(other)),
    })
}

/// The gradient for x (M, H) from that for y; that for the weight, `weight_gradient` (H), is added to.
pub fn backward(
    saved: &SavedNorm,
    dy: &Tensor,
    weight_gradient: Option<&Gradient>,
) -> Result<Tensor> {
    let kind = dy.f_kind()?;
    timed(Operation::Norm, || match kind {
        Kind::BFloat16 => backward_in::<bf16>(saved, dy, weight_gradient),
        Kind::Float => backward_in::<f32>(saved, dy, weight_gradient),
        other => Err(unsupported(other)),
    })
}

fn unsupported(kind: Kind) -> Error {
    Error::Libtorch(format!("a norm of {kind:?}, expected Float or BFloat16"))
}

fn forward_in<T: Element>(x: &Tensor, weight: Tensor, epsilon: f64) -> Result<(Tensor, SavedNorm)> {
    let mut y = memory::empty::<T>(&x.size())?;
    let mut inverse = vec![0.0; x.size()[0] as usize];
    let weights = slice::<f32>(&weight)?;
    let rows = kernel::rows_per_part(weights.len());
    let length = rows * weights.len();
    let parts = slice::<T>(x)?
        .chunks(length)
        .zip(slice_mut(&mut y)?.chunks_mut(length))
        .zip(inverse.chunks_mut(rows));
    let parts = parts.map(|((x, y), inverse)| Forward {
        x,
        weight: weights,
        epsilon: epsilon as f32,
        y,
        inverse,
    });
    kernel::run_all(parts.collect());
    let input = x.shallow_clone();
    Ok((
        y,
        SavedNorm {
            input,
            weight,
            inverse,
        },
    ))
}

fn backward_in<T: Element>(
    saved: &SavedNorm,
    dy: &Tensor,
    weight_gradient: Option<&Gradient>,
) -> Result<Tensor> {
    let mut dx = memory::empty::<T>(&dy.size())?;
    let weight = slice::<f32>(&saved.weight)?;
    let width = weight.len();
    let rows = kernel::rows_per_part(width);
    let length = rows * width;
    // Each part sums its own gradient for the weight; theirs are added in order.
    let parts = saved.inverse.len().div_ceil(rows);
    let mut of_weight = vec![
        0.0_f32;
        if weight_gradient.is_some() {
            parts * width
        } else {
            0
        }
    ];
    let mut of_parts = of_weight.chunks_mut(width);
    let parts = slice::<T>(&saved.input)?
        .chunks(length)
        .zip(saved.inverse.chunks(rows))
        .zip(slice(dy)?.chunks(length))
        .zip(slice_mut(&mut dx)?.chunks_mut(length));
    let parts = parts.map(|(((x, inverse), dy), dx)| Backward {
        x,
        inverse,
        weight,
        dy,
        dx,
        weight_gradient: of_parts.next(),
    });
    kernel::run_all(parts.collect());
    if let Some(gradient) = weight_gradient {
        let of_parts = Tensor::f_from_slice(&of_weight)?.f_view([-1, width as i64])?;
        gradient.add(&of_parts.f_sum_dim_intlist(0, false, Kind::Float)?)?;
    }
    Ok(dx)
}

struct Forward<'a, T> {
    x: &'a [T],
    weight: &'a [f32],
    epsilon: f32,
    y: &'a mut [T],
    inverse: &'a mut [f32],
}

impl<T: Element> Kernel for Forward<'_, T> {
    #[inline(always)]
    fn run(self) {
        let width = self.weight.len();
        let rows = self
            .x
            .chunks_exact(width)
            .zip(self.y.chunks_exact_mut(width))
            .zip(self.inverse);
        for ((x, y), inverse) in rows {
            let square = sum(x, x, |a, b| a.widen() * b.widen());
            *inverse = 1.0 / (square / width as f32 + self.epsilon).sqrt();
            for ((y, x), weight) in y.iter_mut().zip(x).zip(self.weight) {
                *y = T::round(x.widen() * *inverse * weight);
            }
        }
    }
}

struct Backward<'a, T> {
    x: &'a [T],
    inverse: &'a [f32],
    weight: &'a [f32],
    dy: &'a [T],
    dx: &'a mut [T],
    weight_gradient: Option<&'a mut [f32]>,
}

impl<T: Element> Kernel for Backward<'_, T> {
    #[inline(always)]
    fn run(mut self) {
        let width = self.weight.len();
        // dy · weight of the row, so that it is computed once.
        let mut weighted = vec![0.0_f32; width];
        let rows = self
            .x
            .chunks_exact(width)
            .zip(self.dy.chunks_exact(width))
            .zip(self.dx.chunks_exact_mut(width));
        for (((x, dy), dx), inverse) in rows.zip(self.inverse) {
            for ((weighted, dy), weight) in weighted.iter_mut().zip(dy).zip(self.weight) {
                *weighted = dy.widen() * weight;
            }
            // The part of the gradient along x itself changes only the row's length, which the norm undoes: it is taken out.
            let along = sum(x, &weighted, |x, weighted| x.widen() * weighted) * inverse * inverse
                / width as f32;
            for ((dx, x), weighted) in dx.iter_mut().zip(x).zip(&weighted) {
                *dx = T::round((weighted - x.widen() * along) * inverse);
            }
            if let Some(gradient) = &mut self.weight_gradient {
                for ((gradient, x), dy) in gradient.iter_mut().zip(x).zip(dy) {
                    *gradient += dy.widen() * (x.widen() * inverse);
                }
            }
        }
    }
}

/// The sum of `term` over two rows, in 16 partial sums: one chain of additions would not vectorise.
#[inline(always)]
fn sum<A: Copy, B: Copy>(left: &[A], right: &[B], term: impl Fn(A, B) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += term(left[lane], right[lane]);
        }
    }
    let rest: f32 = left_rest
        .iter()
        .zip(right_rest)
        .map(|(&left, &right)| term(left, right))
        .sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{FLOAT, assert_close, random};
    use rstest::rstest;

    #[rstest]
    #[case(0.0)]
    #[case(1.0)]
    fn equals_automatic_differentiation(#[case] offset: f64) {
        let x = random(&[5, 24], 1).set_requires_grad(true);
        let weight = random(&[24], 2).set_requires_grad(true);
        let dy = random(&[5, 24], 3);
        let settings = NormSettings {
            epsilon: 1e-3,
            offset,
        };
        let mean = x.square().mean_dim(-1, true, Kind::Float);
        let expected = &x * (mean + settings.epsilon).rsqrt() * (&weight + offset);
        (&expected * &dy).sum(Kind::Float).backward();

        let (y, saved) = forward(&x.detach(), &weight.detach(), settings).unwrap();
        let d_weight = Tensor::zeros([24], FLOAT);
        let gradient = Gradient::new(d_weight.shallow_clone());
        let dx = backward(&saved, &dy, Some(&gradient)).unwrap();
        for (ours, expected) in [
            (y, expected.detach()),
            (dx, x.grad()),
            (d_weight, weight.grad()),
        ] {
            assert_close(&ours, &expected);
        }
    }
}
