//! Matrices that products take apart: some of their columns, or of their rows, laid out anew as fp32 for one product after the other.
//!
//! No matrix is made whole in another form than its own: a panel of it is made where it is used, in buffers that a thread keeps, and
//! lies in the processor's caches while it is multiplied by.

use std::cell::Cell;
use std::ops::Range;

use half::bf16;

use crate::ops::cpu::lanes::{Lanes, MOST_LANES};
use crate::ops::cpu::memory::Element;
use crate::ops::cpu::tile;
use crate::ops::four_bit::{self, FourBitMatrix};

/// Numbers that are read row by row, in the type in which they are held. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Numbers<'a> {
    /// fp32.
    Float(&'a [f32]),
    /// bfloat16.
    Brain(&'a [bf16]),
    /// 4 bits.
    FourBit(&'a FourBitMatrix),
}

/// A matrix whose rows lie `width` numbers apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) numbers: Numbers<'a>,
    pub(crate) width: usize,
    /// Whether its numbers are taken to the nearest bfloat16: what they would be if the matrix were held in that type.
    pub(crate) rounded: bool,
}

impl Matrix<'_> {
    /// Writes the numbers of a row in these columns.
    #[inline(always)]
    pub(crate) fn read<L: Lanes>(&self, row: usize, columns: Range<usize>, to: &mut [f32]) {
        let to = &mut to[..columns.len()];
        let start = row * self.width + columns.start;
        match self.numbers {
            Numbers::Float(numbers) => {
                let from = &numbers[start..start + to.len()];
                if self.rounded {
                    for index in 0..to.len() {
                        to[index] = <bf16 as Element>::round(from[index]).widen();
                    }
                } else {
                    to.copy_from_slice(from);
                }
            }
            Numbers::Brain(numbers) => {
                let from = &numbers[start..start + to.len()];
                for index in 0..to.len() {
                    to[index] = from[index].widen();
                }
            }
            Numbers::FourBit(matrix) => matrix.read::<L>(start, self.rounded, to),
        }
    }
}

impl<'a> Matrix<'a> {
    /// As the right matrix of a product.
    pub(crate) const fn direct(self) -> Right<'a> {
        Right {
            matrix: self,
            transposed: false,
        }
    }

    /// Transposed, as the right matrix of a product.
    pub(crate) const fn transposed(self) -> Right<'a> {
        Right {
            matrix: self,
            transposed: true,
        }
    }
}

/// The right matrix of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Right<'a> {
    pub(crate) matrix: Matrix<'a>,
    /// Whether it is the matrix transposed.
    pub(crate) transposed: bool,
}

/// Rows of a transposed matrix that are read at a time: so many of their numbers lie in the nearest cache.
pub(crate) const STRIP: usize = 256;

impl<'a> Right<'a> {
    /// Rows `inner` of it in these columns, with zeros up to whole lanes: in `panel`, or where the matrix lies if that will do and
    /// is asked for, or its rows are the panel's: rows far apart are slow to walk.
    /// `strip` is room for [`STRIP`] numbers of as many rows as there are lanes.
    #[inline(always)]
    pub(crate) fn panel<L: Lanes>(
        &self,
        inner: Range<usize>,
        columns: Range<usize>,
        panel: &'a mut [f32],
        strip: &mut [f32],
        in_place: bool,
    ) -> tile::Right<'a> {
        let whole = columns.len().is_multiple_of(L::COUNT);
        if let (Numbers::Float(numbers), false, false, true) = (
            self.matrix.numbers,
            self.transposed,
            self.matrix.rounded,
            whole && (in_place || self.matrix.width == columns.len()),
        ) {
            return tile::Right {
                numbers: &numbers[inner.start * self.matrix.width + columns.start..],
                stride: self.matrix.width,
            };
        }
        let stride = columns.len().next_multiple_of(L::COUNT);
        if self.transposed {
            self.transpose::<L>(inner, columns, panel, strip);
        } else {
            // By index: the compiler leaves the calls of two zipped iterators in so large a loop.
            for at in 0..inner.len() {
                let to = &mut panel[at * stride..(at + 1) * stride];
                self.matrix.read::<L>(inner.start + at, columns.clone(), to);
                to[columns.len()..].fill(0.0);
            }
        }
        tile::Right {
            numbers: panel,
            stride,
        }
    }

    /// The same in bfloat16, two rows in each: number (i, j) of the result holds (2·i, j), and above it (2·i + 1, j). Rows are as many as
    /// half of `inner`, whose length is even; there are [`Lanes::COUNT`] lanes of 16.
    #[inline(always)]
    pub(crate) fn pairs<L: Lanes>(
        &self,
        inner: Range<usize>,
        columns: Range<usize>,
        panel: &'a mut [f32],
        strip: &mut [f32],
    ) -> &'a [f32] {
        let stride = columns.len().next_multiple_of(L::COUNT);
        if !self.transposed {
            let (first, second) = strip.split_at_mut(stride);
            for at in 0..inner.len() / 2 {
                let row = inner.start + 2 * at;
                self.matrix.read::<L>(row, columns.clone(), first);
                self.matrix.read::<L>(row + 1, columns.clone(), second);
                let to = &mut panel[at * stride..(at + 1) * stride];
                for column in 0..columns.len() {
                    to[column] = pair(first[column], second[column]);
                }
                to[columns.len()..].fill(0.0);
            }
            return panel;
        }
        let mut pairs = [0.0; STRIP / 2 * MOST_LANES];
        for first in (0..columns.len()).step_by(L::COUNT) {
            let rows = L::COUNT.min(columns.len() - first);
            for start in (0..inner.len()).step_by(STRIP) {
                let length = STRIP.min(inner.len() - start);
                let from = inner.start + start..inner.start + start + length;
                for row in 0..L::COUNT {
                    let to = &mut pairs[row * (STRIP / 2)..][..length / 2];
                    if row >= rows {
                        to.fill(0.0);
                        continue;
                    }
                    let row = columns.start + first + row;
                    self.matrix.read::<L>(row, from.clone(), strip);
                    for at in 0..length / 2 {
                        to[at] = pair(strip[2 * at], strip[2 * at + 1]);
                    }
                }
                let rows = Strip {
                    numbers: &pairs,
                    stride: STRIP / 2,
                    length: length / 2,
                };
                rows.transpose::<L>(&mut panel[start / 2 * stride + first..], stride);
            }
        }
        panel
    }

    /// Writes columns `inner` of the matrix's rows `columns` as the columns of the panel.
    #[inline(always)]
    fn transpose<L: Lanes>(
        &self,
        inner: Range<usize>,
        columns: Range<usize>,
        panel: &mut [f32],
        strip: &mut [f32],
    ) {
        let stride = columns.len().next_multiple_of(L::COUNT);
        for first in (0..columns.len()).step_by(L::COUNT) {
            let rows = L::COUNT.min(columns.len() - first);
            if let (Numbers::Float(numbers), false, true) =
                (self.matrix.numbers, self.matrix.rounded, rows == L::COUNT)
            {
                let from = (columns.start + first) * self.matrix.width + inner.start;
                let rows = Strip {
                    numbers: &numbers[from..],
                    stride: self.matrix.width,
                    length: inner.len(),
                };
                rows.transpose::<L>(&mut panel[first..], stride);
                continue;
            }
            for start in (0..inner.len()).step_by(STRIP) {
                let length = STRIP.min(inner.len() - start);
                let from = inner.start + start..inner.start + start + length;
                for row in 0..L::COUNT {
                    let to = &mut strip[row * STRIP..][..length];
                    if row < rows {
                        let row = columns.start + first + row;
                        self.matrix.read::<L>(row, from.clone(), to);
                    } else {
                        to.fill(0.0);
                    }
                }
                let rows = Strip {
                    numbers: strip,
                    stride: STRIP,
                    length,
                };
                rows.transpose::<L>(&mut panel[start * stride + first..], stride);
            }
        }
    }
}

/// Two numbers as bfloat16 in one of 32 bits. They are rounded to the nearest; those of a matrix in bfloat16 are none to round.
#[inline(always)]
fn pair(first: f32, second: f32) -> f32 {
    let half = |number: f32| u32::from(<bf16 as Element>::round(number).to_bits());
    f32::from_bits(half(first) | half(second) << 16)
}

/// As many rows as there are lanes.
struct Strip<'a> {
    numbers: &'a [f32],
    stride: usize,
    length: usize,
}

impl Strip<'_> {
    /// Writes the rows as columns.
    #[inline(always)]
    fn transpose<L: Lanes>(&self, panel: &mut [f32], stride: usize) {
        let whole = self.length / L::COUNT * L::COUNT;
        assert!(
            (L::COUNT - 1) * self.stride + self.length <= self.numbers.len(),
            "the strip is short"
        );
        assert!(
            whole == 0 || (whole - 1) * stride + L::COUNT <= panel.len(),
            "the panel is short"
        );
        for at in (0..whole).step_by(L::COUNT) {
            // SAFETY: COUNT rows reach beyond `whole` numbers, and the panel has `whole` rows of COUNT numbers, as just asked.
            #[expect(
                unsafe_code,
                reason = "a transposition reads and writes where rows lie"
            )]
            unsafe {
                let from = self.numbers.as_ptr().add(at);
                let to = panel.as_mut_ptr().add(at * stride);
                L::transpose(from, self.stride, to, stride);
            }
        }
        for at in whole..self.length {
            for row in 0..L::COUNT {
                panel[at * stride + row] = self.numbers[row * self.stride + at];
            }
        }
    }
}

/// What a panel is made in.
#[derive(Debug, Default)]
pub(crate) struct PanelBuffers {
    panel: Buffer,
    strip: Buffer,
}

impl PanelBuffers {
    /// So many numbers for panels, and so many for a strip.
    #[inline(always)]
    pub(crate) fn both(&mut self, panel: usize, strip: usize) -> (&mut [f32], &mut [f32]) {
        (self.panel.numbers(panel), self.strip.numbers(strip))
    }
}

/// Numbers that begin where a register of any width may be loaded from at once.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<Line>);

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Buffer {
    /// So many numbers, whatever they are.
    #[inline(always)]
    pub(crate) fn numbers(&mut self, length: usize) -> &mut [f32] {
        let lines = length.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; 16]));
        }
        // SAFETY: each line is 16 numbers without a gap, and so many lines are there.
        #[expect(unsafe_code, reason = "lines are read as the numbers that they are")]
        unsafe {
            std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<f32>(), length)
        }
    }

    /// So many numbers of bfloat16, whatever they are.
    pub(crate) fn brains(&mut self, length: usize) -> &mut [bf16] {
        let numbers = self.numbers(length.div_ceil(2));
        // SAFETY: each number of 32 bits is two of 16, for all of whose bits there is a value.
        #[expect(unsafe_code, reason = "numbers are read as halves")]
        unsafe {
            std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast::<bf16>(), length)
        }
    }

    /// The first numbers, which were written before.
    pub(crate) fn known(&self, length: usize) -> &[f32] {
        let length = length.min(16 * self.0.len());
        // SAFETY: as above.
        #[expect(unsafe_code, reason = "lines are read as the numbers that they are")]
        unsafe {
            std::slice::from_raw_parts(self.0.as_ptr().cast::<f32>(), length)
        }
    }
}

/// What a thread computes products in. It grows to what the largest product needs, and stays.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    pub(crate) panel: PanelBuffers,
    /// The sums of a task.
    pub(crate) sums: Buffer,
    /// The last rows of a left matrix, filled up.
    pub(crate) left: Buffer,
}

thread_local! {
    static BUFFERS: Cell<Buffers> = Cell::default();
}

impl Buffers {
    /// Takes the thread's. To be given back; a closure that they are lent to would be a call without the caller's instructions.
    pub(crate) fn take() -> Self {
        BUFFERS.take()
    }

    /// Keeps them for the next who takes.
    pub(crate) fn give_back(self) {
        BUFFERS.set(self);
    }
}

impl FourBitMatrix {
    /// Writes the values from number `start` on, as they lie row by row.
    #[inline(always)]
    fn read<L: Lanes>(&self, start: usize, rounded: bool, to: &mut [f32]) {
        /// The values that are looked up at a time.
        const GROUP: usize = 16;
        let (codes, values_of) = (self.codes(), self.code().values());
        let end = start + to.len();
        let mut at = start;
        while at < end {
            let block = at / four_bit::BLOCK;
            let until = end.min((block + 1) * four_bit::BLOCK);
            let scale = self.scales().of(block);
            if at.is_multiple_of(2) {
                let table = L::table(values_of, scale, rounded);
                while at + GROUP <= until {
                    let indices = &codes[at / 2..at / 2 + GROUP / 2];
                    let to = &mut to[at - start..at - start + GROUP];
                    // SAFETY: so many bytes and numbers are there.
                    #[expect(unsafe_code, reason = "a table is looked up by pointers")]
                    unsafe {
                        L::look_up(&table, indices.as_ptr(), to.as_mut_ptr());
                    }
                    at += GROUP;
                }
            }
            while at < until {
                let byte = codes[at / 2];
                let index = if at.is_multiple_of(2) {
                    byte >> 4
                } else {
                    byte & 0xf
                };
                let value = values_of[usize::from(index)] * scale;
                to[at - start] = match rounded {
                    true => <bf16 as Element>::round(value).widen(),
                    false => value,
                };
                at += 1;
            }
        }
    }
}
