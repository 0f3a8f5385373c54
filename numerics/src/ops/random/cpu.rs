//! Masks and noise on the CPU.

use tch::Tensor;

use super::{BITS, Dropout, Key, uniform};
use crate::ops::Result;
use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::cpu::memory::{self, Element, slice, slice_mut};

/// x (M, N) under the mask.
pub(super) fn drop_out<T: Element>(dropout: &Dropout, x: &Tensor) -> Result<Tensor> {
    let mut y = memory::empty::<T>(&x.size())?;
    let x = x.f_contiguous()?;
    let (_, width) = x.size2()?;
    let rows_here = kernel::rows_per_part(width as usize);
    let length = rows_here * width as usize;
    let parts = slice::<T>(&x)?
        .chunks(length)
        .zip(slice_mut(&mut y)?.chunks_mut(length));
    let parts = parts.enumerate().map(|(part, (x, y))| Mask {
        x,
        y,
        width: width as usize,
        first_row: part * rows_here,
        dropout: *dropout,
    });
    kernel::run_all(parts.collect());
    Ok(y)
}

struct Mask<'a, T> {
    x: &'a [T],
    y: &'a mut [T],
    width: usize,
    first_row: usize,
    dropout: Dropout,
}

impl<T: Element> Kernel for Mask<'_, T> {
    #[inline(always)]
    fn run(self) {
        let rows = self
            .x
            .chunks_exact(self.width)
            .zip(self.y.chunks_exact_mut(self.width));
        for ((x, y), row) in rows.zip(self.first_row..) {
            let mask = self.dropout.of_row(row);
            for ((x, y), column) in x.iter().zip(y).zip(0..) {
                *y = T::round(x.widen() * mask.factor(column));
            }
        }
    }
}

/// Adds the noise to x (M, N).
pub(super) fn add_noise<T: Element>(x: &mut Tensor, magnitude: f64, key: Key) -> Result<()> {
    let (_, width) = x.size2()?;
    let width = width as usize;
    let rows_here = kernel::rows_per_part(width);
    let parts = slice_mut::<T>(x)?.chunks_mut(rows_here * width);
    let parts = parts.enumerate().map(|(part, x)| Noise {
        x,
        width,
        first_row: part * rows_here,
        key,
        magnitude: magnitude as f32,
    });
    kernel::run_all(parts.collect());
    Ok(())
}

struct Noise<'a, T> {
    x: &'a mut [T],
    width: usize,
    first_row: usize,
    key: Key,
    magnitude: f32,
}

impl<T: Element> Kernel for Noise<'_, T> {
    #[inline(always)]
    fn run(self) {
        /// 2^-23: numbers from 0 to 2^24 - 1 become numbers from 0 to 2.
        const SCALE: f32 = 1.0 / (1 << (BITS - 1)) as f32;
        let rows = self.x.chunks_exact_mut(self.width);
        for (x, row) in rows.zip(self.first_row as u32..) {
            let of_row = self.key.of_row(row);
            for (x, column) in x.iter_mut().zip(0..) {
                let noise = uniform(of_row, column) as f32 * SCALE - 1.0;
                *x = T::round(x.widen() + noise * self.magnitude);
            }
        }
    }
}
