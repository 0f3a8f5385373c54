//! Norms of rows on the CPU.

use tch::{Kind, Tensor};

use super::SavedNorm;
use crate::ops::Result;
use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::cpu::memory::{self, Element, slice, slice_mut};
use crate::ops::trained::Gradient;

pub(super) fn forward<T: Element>(
    x: &Tensor,
    weight: Tensor,
    epsilon: f64,
) -> Result<(Tensor, SavedNorm)> {
    let mut y = memory::empty::<T>(&x.size())?;
    let mut inverse = memory::empty::<f32>(&[x.size()[0]])?;
    let weights = slice::<f32>(&weight)?;
    let rows = kernel::rows_per_part(weights.len());
    let length = rows * weights.len();
    let parts = slice::<T>(x)?
        .chunks(length)
        .zip(slice_mut(&mut y)?.chunks_mut(length))
        .zip(slice_mut::<f32>(&mut inverse)?.chunks_mut(rows));
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

pub(super) fn backward<T: Element>(
    saved: &SavedNorm,
    dy: &Tensor,
    weight_gradient: Option<&Gradient>,
    around: Option<&Tensor>,
) -> Result<Tensor> {
    let mut dx = memory::empty::<T>(&dy.size())?;
    let weight = slice::<f32>(&saved.weight)?;
    let width = weight.len();
    let rows = kernel::rows_per_part(width);
    let length = rows * width;
    // Each part sums its own gradient for the weight; theirs are added in order.
    let inverse = slice::<f32>(&saved.inverse)?;
    let parts = inverse.len().div_ceil(rows);
    let mut of_weight = vec![
        0.0_f32;
        if weight_gradient.is_some() {
            parts * width
        } else {
            0
        }
    ];
    let mut of_parts = of_weight.chunks_mut(width);
    let around = around.map(slice::<T>).transpose()?;
    let mut around = around.map(|around| around.chunks(length));
    let parts = slice::<T>(&saved.input)?
        .chunks(length)
        .zip(inverse.chunks(rows))
        .zip(slice(dy)?.chunks(length))
        .zip(slice_mut(&mut dx)?.chunks_mut(length));
    let parts = parts.map(|(((x, inverse), dy), dx)| Backward {
        x,
        inverse,
        weight,
        dy,
        dx,
        weight_gradient: of_parts.next(),
        around: around.as_mut().and_then(Iterator::next),
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
    around: Option<&'a [T]>,
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
        for (row, (((x, dy), dx), inverse)) in rows.zip(self.inverse).enumerate() {
            for ((weighted, dy), weight) in weighted.iter_mut().zip(dy).zip(self.weight) {
                *weighted = dy.widen() * weight;
            }
            // The part of the gradient along x itself changes only the row's length, which the norm undoes: it is taken out.
            let along = sum(x, &weighted, |x, weighted| x.widen() * weighted) * inverse * inverse
                / width as f32;
            match self.around {
                None => {
                    for ((dx, x), weighted) in dx.iter_mut().zip(x).zip(&weighted) {
                        *dx = T::round((weighted - x.widen() * along) * inverse);
                    }
                }
                Some(around) => {
                    let around = &around[row * width..(row + 1) * width];
                    let inputs = x.iter().zip(&weighted).zip(around);
                    for (dx, ((x, weighted), around)) in dx.iter_mut().zip(inputs) {
                        let through = (weighted - x.widen() * along) * inverse;
                        *dx = T::round(through + around.widen());
                    }
                }
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
