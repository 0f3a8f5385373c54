//! Tensors of rows as products take them: in fp32, where they lie or as a copy.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;
use tch::{Kind, Tensor};

use super::panel::{Buffer, Matrix, Numbers, Right};
use super::terms::{Term, TermLeft};
use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::cpu::memory::{Element, slice};
use crate::ops::cpu::tile::Left;
use crate::ops::{Error, Result};

/// The rows of a tensor (M, N) in fp32.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    numbers: Wide<'a>,
    pub(crate) count: usize,
    pub(crate) width: usize,
}

#[derive(Debug)]
enum Wide<'a> {
    Own(&'a [f32]),
    Copied(Kept),
}

impl<'a> Rows<'a> {
    /// Those of a contiguous tensor (M, N) in fp32 or bfloat16.
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (count, width) = tensor.size2()?;
        let numbers = match tensor.f_kind()? {
            Kind::Float => Wide::Own(slice::<f32>(tensor)?),
            Kind::BFloat16 => Wide::Copied(Kept::widened(slice::<bf16>(tensor)?)),
            other => {
                return Err(Error::Libtorch(format!(
                    "rows of {other:?}, expected Float or BFloat16"
                )));
            }
        };
        Ok(Self {
            numbers,
            count: count as usize,
            width: width as usize,
        })
    }

    fn numbers(&self) -> &[f32] {
        match &self.numbers {
            Wide::Own(numbers) => numbers,
            Wide::Copied(kept) => kept.numbers(),
        }
    }

    /// Some of the rows.
    fn some(&self, rows: Range<usize>) -> &[f32] {
        &self.numbers()[rows.start * self.width..rows.end * self.width]
    }

    /// Some of the rows as a matrix that products take apart.
    pub(crate) fn matrix(&self, rows: Range<usize>) -> Matrix<'_> {
        Matrix {
            numbers: Numbers::Float(self.some(rows)),
            width: self.width,
            rounded: false,
        }
    }

    /// The rows transposed, times a right matrix: a part of all rows of a result.
    pub(crate) fn transposed_times<'b>(&'b self, right: Right<'b>) -> Term<'b> {
        Term {
            rows: 0..self.width,
            left: TermLeft::Float(Left {
                numbers: self.numbers(),
                row: 1,
                column: self.width,
            }),
            inner: self.count,
            right,
        }
    }

    /// All rows times a right matrix, as a part of the rows `to` of a result.
    pub(crate) fn times<'b>(&'b self, right: Right<'b>, to: Range<usize>) -> Term<'b> {
        Term {
            rows: to,
            ..self.some_times(0..self.count, right)
        }
    }

    /// Some of the rows times a right matrix, as all rows of a result.
    pub(crate) fn some_times<'b>(&'b self, rows: Range<usize>, right: Right<'b>) -> Term<'b> {
        Term {
            rows: 0..rows.len(),
            left: TermLeft::Float(Left {
                numbers: self.some(rows),
                row: self.width,
                column: 1,
            }),
            inner: self.width,
            right,
        }
    }
}

/// A buffer that the thread keeps for the next who needs one.
#[derive(Debug)]
struct Kept {
    buffer: Buffer,
    length: usize,
}

thread_local! {
    /// As many as are needed at a time: an input and the gradients of what shares it.
    static FREE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

impl Kept {
    fn widened(numbers: &[bf16]) -> Self {
        let buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        let mut kept = Self {
            buffer,
            length: numbers.len(),
        };
        let part = kernel::rows_per_part(1);
        let to = kept.buffer.numbers(numbers.len()).chunks_mut(part);
        let parts = numbers.chunks(part).zip(to);
        kernel::run_all(parts.map(|(from, to)| Widen { from, to }).collect());
        kept
    }

    fn numbers(&self) -> &[f32] {
        self.buffer.known(self.length)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        FREE.with_borrow_mut(|free| free.push(buffer));
    }
}

struct Widen<'a> {
    from: &'a [bf16],
    to: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    #[inline(always)]
    fn run(self) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = from.widen();
        }
    }
}
