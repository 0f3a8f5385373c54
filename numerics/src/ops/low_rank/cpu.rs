//! The loops of adapters on the CPU.

use tch::Tensor;

use crate::ops::Result;
use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::cpu::memory::{self, Element, slice, slice_mut};

/// The sums of squares of the rows of a weight (out, in), (out) in fp32.
pub(super) fn squares_of_rows<T: Element>(weight: &Tensor) -> Result<Tensor> {
    let (rows, width) = weight.size2()?;
    let mut squares = memory::empty::<f32>(&[rows])?;
    let weight = weight.f_contiguous()?;
    let rows_here = kernel::rows_per_part(width as usize);
    let parts = slice::<T>(&weight)?
        .chunks(rows_here * width as usize)
        .zip(slice_mut::<f32>(&mut squares)?.chunks_mut(rows_here));
    let parts = parts.map(|(weight, squares)| Squares {
        weight,
        width: width as usize,
        squares,
    });
    kernel::run_all(parts.collect());
    Ok(squares)
}

struct Squares<'a, T> {
    weight: &'a [T],
    width: usize,
    squares: &'a mut [f32],
}

impl<T: Element> Kernel for Squares<'_, T> {
    #[inline(always)]
    fn run(self) {
        /// One chain of additions would not vectorise.
        const LANES: usize = 16;
        for (row, square) in self.weight.chunks_exact(self.width).zip(self.squares) {
            let mut sums = [0.0_f32; LANES];
            let (chunks, rest) = row.as_chunks::<LANES>();
            for chunk in chunks {
                for lane in 0..LANES {
                    let value = chunk[lane].widen();
                    sums[lane] += value * value;
                }
            }
            let rest: f32 = rest.iter().map(|x| x.widen() * x.widen()).sum();
            *square = sums.iter().sum::<f32>() + rest;
        }
    }
}
