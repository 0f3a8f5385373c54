//! The turn of queries and keys on the CPU.

use tch::Tensor;

use super::{Rotation, Shape};
use crate::ops::Result;
use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::cpu::memory::{self, Element, slice, slice_mut};

pub(super) fn forward<T: Element>(rotation: &Rotation, x: &Tensor, shape: Shape) -> Result<Tensor> {
    let sizes = [shape.batch(), shape.heads, shape.length, shape.head_dim];
    let mut y = memory::empty::<T>(&sizes.map(|size| size as i64))?;
    let x = x.f_contiguous()?;
    let (x, angles) = (slice::<T>(&x)?, Angles::of(rotation)?);
    let plane = shape.length * shape.head_dim;
    let planes = kernel::rows_per_part(plane);
    let parts = slice_mut::<T>(&mut y)?.chunks_mut(planes * plane);
    let parts = parts.enumerate().map(|(part, y)| ToHeads {
        x,
        y,
        first_plane: part * planes,
        angles,
        shape,
    });
    kernel::run_all(parts.collect());
    Ok(y)
}

pub(super) fn backward<T: Element>(
    rotation: &Rotation,
    dy: &Tensor,
    shape: Shape,
) -> Result<Tensor> {
    let width = shape.heads * shape.head_dim;
    let mut dx = memory::empty::<T>(&[shape.rows as i64, width as i64])?;
    let dy = dy.f_contiguous()?;
    let (dy, angles) = (slice::<T>(&dy)?, Angles::of(rotation)?);
    let rows = kernel::rows_per_part(width);
    let parts = slice_mut::<T>(&mut dx)?.chunks_mut(rows * width);
    let parts = parts.enumerate().map(|(part, dx)| ToRows {
        dy,
        dx,
        first_row: part * rows,
        angles,
        shape,
    });
    kernel::run_all(parts.collect());
    Ok(dx)
}

impl Shape {
    const fn batch(&self) -> usize {
        self.rows / self.length
    }

    /// Which angles the token of this row (b·T + t) has.
    #[inline(always)]
    const fn angle(&self, row: usize) -> usize {
        if self.of_rows { row } else { row % self.length }
    }
}

/// cos and sin of each token, `half` of each.
#[derive(Clone, Copy)]
struct Angles<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
}

impl<'a> Angles<'a> {
    fn of(rotation: &'a Rotation) -> Result<Self> {
        let half = rotation.cos.size().last().copied().unwrap_or_default();
        Ok(Self {
            cos: slice(&rotation.cos)?,
            sin: slice(&rotation.sin)?,
            half: half as usize,
        })
    }

    /// Turns the head x (D) by the angles of a token, or back where `sign` is -1. Elements past those of cos and sin pass as they are.
    #[inline(always)]
    fn turn<T: Element>(&self, token: usize, sign: f32, x: &[T], y: &mut [T]) {
        let half = self.half;
        let own = token * half..(token + 1) * half;
        let (cos, sin) = (&self.cos[own.clone()], &self.sin[own]);
        let (x, passing) = x.split_at(2 * half);
        let (y, passed) = y.split_at_mut(2 * half);
        passed.copy_from_slice(passing);
        let ((first, second), (to_first, to_second)) = (x.split_at(half), y.split_at_mut(half));
        for index in 0..half {
            let (cos, sin) = (cos[index], sin[index] * sign);
            let (first, second) = (first[index].widen(), second[index].widen());
            to_first[index] = T::round(first * cos - second * sin);
            to_second[index] = T::round(second * cos + first * sin);
        }
    }
}

/// Turns some planes (T, D) of the heads (B, heads, T, D).
struct ToHeads<'a, T> {
    /// All rows (B·T, heads·D).
    x: &'a [T],
    y: &'a mut [T],
    first_plane: usize,
    angles: Angles<'a>,
    shape: Shape,
}

impl<T: Element> Kernel for ToHeads<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Shape {
            length,
            heads,
            head_dim,
            ..
        } = self.shape;
        let planes = self.y.chunks_exact_mut(length * head_dim);
        for (y, plane) in planes.zip(self.first_plane..) {
            let (batch, head) = (plane / heads, plane % heads);
            let first = batch * length;
            let angles = self.shape.angle(first)..;
            for ((y, row), angle) in y.chunks_exact_mut(head_dim).zip(first..).zip(angles) {
                let start = (row * heads + head) * head_dim;
                let x = &self.x[start..start + head_dim];
                self.angles.turn(angle, 1.0, x, y);
            }
        }
    }
}

/// Turns back into some rows (heads·D).
struct ToRows<'a, T> {
    /// All heads (B, heads, T, D).
    dy: &'a [T],
    dx: &'a mut [T],
    first_row: usize,
    angles: Angles<'a>,
    shape: Shape,
}

impl<T: Element> Kernel for ToRows<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Shape {
            length,
            heads,
            head_dim,
            ..
        } = self.shape;
        let rows = self.dx.chunks_exact_mut(heads * head_dim);
        for (dx, row) in rows.zip(self.first_row..) {
            let (batch, token, angle) = (row / length, row % length, self.shape.angle(row));
            for (dx, head) in dx.chunks_exact_mut(head_dim).zip(0..) {
                let start = ((batch * heads + head) * length + token) * head_dim;
                let dy = &self.dy[start..start + head_dim];
                self.angles.turn(angle, -1.0, dy, dx);
            }
        }
    }
}
