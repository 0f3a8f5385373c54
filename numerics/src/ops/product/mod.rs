//! Sums of products of whole matrices, of which the right ones are held in any form: result = Σ left·right.
//!
//! A task computes some columns of some rows: it lays out the panel of each right matrix that it needs, multiplies the rows by it
//! and adds up in fp32, and finishes the sums once all are there: factor, bias, rounding. Each number is summed by one thread, over
//! the terms in their order and over the inner dimension in its order. So a result depends neither on the number of threads nor on
//! how it was cut into tasks.
#![expect(
    clippy::needless_range_loop,
    reason = "of iterators here the compiler would make calls without the instructions"
)]

pub(crate) mod panel;
pub(crate) mod rows;

use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;

use self::panel::{Buffers, PanelBuffers, Right, STRIP};
use super::cpu::lanes::{self, Lanes, LanesKernel};
use super::cpu::memory::Element;
use super::cpu::threads;
use super::cpu::tile::{self, Left};

/// Registers of a panel's columns.
const LANES: usize = 3;

/// Tasks for each thread, where there is so much to do.
const TASKS: usize = 6;

/// The most rows of a task: many more, and threads end far apart.
const ROWS: usize = 1536;

/// The fewest rows for which tasks are cut smaller: each makes its panel anew.
const LEAST_ROWS: usize = 96;

/// The most of the inner dimension of panels that are used together.
const INNER: usize = 2048;

/// Up to so many rows, a right matrix is read where it lies.
const MOST_IN_PLACE: usize = 32;

/// Rows that are summed and finished at a time.
const ROWS_AT_A_TIME: usize = 48;

/// Up to so many rows, a row of the matrix is read and multiplied by them, and no panel is laid out.
const FEW: usize = 7;

/// One of the products that a result is the sum of.
#[derive(Clone, Debug)]
pub(crate) struct Term<'a> {
    /// The result's rows that it is a part of. The left matrix has as many.
    pub(crate) rows: Range<usize>,
    pub(crate) left: Left<'a>,
    pub(crate) inner: usize,
    pub(crate) right: Right<'a>,
}

/// A result and what it is the sum of.
#[derive(Debug)]
pub(crate) struct Product<'a> {
    pub(crate) terms: Vec<Term<'a>>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) out: Out<'a>,
}

/// Where a result goes: number (i, j) to i · `row` + j · `column`, times `factor`, plus the bias of its column.
#[derive(Debug)]
pub(crate) struct Out<'a> {
    pub(crate) numbers: OutNumbers<'a>,
    pub(crate) row: usize,
    pub(crate) column: usize,
    pub(crate) factor: f32,
    pub(crate) bias: Option<&'a [f32]>,
    /// Whether it is added to what is there.
    pub(crate) adds: bool,
}

/// Numbers that tasks write, each others than the rest.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OutNumbers<'a> {
    /// fp32.
    Float(Shared<'a, f32>),
    /// bfloat16.
    Brain(Shared<'a, bf16>),
}

/// A slice that several threads write at places of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: the numbers are lent for `'a` to whoever holds this; which thread writes which is the business of `write`'s callers.
#[expect(unsafe_code, reason = "a pointer that threads share")]
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a pointer that threads share")]
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T: Element> Shared<'a, T> {
    /// All of the slice.
    pub(crate) const fn new(numbers: &'a mut [T]) -> Self {
        Self {
            start: numbers.as_mut_ptr(),
            length: numbers.len(),
            lent: PhantomData,
        }
    }

    /// `length` numbers from `start` on, that are not a Rust slice elsewhere for as long as this lives.
    ///
    /// # Safety
    ///
    /// The numbers can be read and written for `'a`, and nobody but holders of copies of this does so.
    #[expect(unsafe_code, reason = "a pointer of libtorch")]
    pub(crate) const unsafe fn from_raw(start: *mut T, length: usize) -> Self {
        Self {
            start,
            length,
            lent: PhantomData,
        }
    }

    /// Writes sums to a row of places `column` numbers apart, from `start` on, or adds them.
    ///
    /// # Safety
    ///
    /// No other thread reads or writes these places meanwhile.
    #[inline(always)]
    #[expect(unsafe_code, reason = "threads write to places between each other's")]
    unsafe fn write(&self, start: usize, column: usize, sums: &[f32], adds: bool) {
        let last = start + sums.len().saturating_sub(1) * column;
        assert!(last < self.length, "the result is short");
        for index in 0..sums.len() {
            // SAFETY: the place is within the slice, as just asked, and this thread's alone.
            unsafe {
                let place = self.start.add(start + index * column);
                let sum = match adds {
                    true => place.read().widen() + sums[index],
                    false => sums[index],
                };
                place.write(T::round(sum));
            }
        }
    }
}

/// Computes all products, spread over libtorch's threads. Results lie apart from each other and from what they are made of.
pub(crate) fn run(products: &[Product<'_>]) {
    /// Products of numbers: some ten microseconds of one thread.
    const LEAST: usize = 1 << 20;
    let work: usize = products.iter().map(Product::work).sum();
    let threads = match work < LEAST {
        true => 1,
        false => usize::try_from(tch::get_num_threads()).unwrap_or(1),
    };
    let mut tasks: Vec<Task<'_>> = Vec::new();
    let panels: usize = products.iter().map(Product::panels).sum();
    let parts = (TASKS * threads).div_ceil(panels.max(1));
    for product in products {
        tasks.extend(product.tasks(parts));
    }
    if threads == 1 {
        tasks.into_iter().for_each(lanes::run);
    } else {
        threads::run_all(tasks, lanes::run);
    }
}

/// Some columns of some rows of a product.
#[derive(Clone, Debug)]
struct Task<'a> {
    product: &'a Product<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Product<'_> {
    fn work(&self) -> usize {
        let terms = self.terms.iter();
        terms
            .map(|term| term.rows.len() * term.inner * self.columns)
            .sum()
    }

    /// How many panels it has.
    fn panels(&self) -> usize {
        self.columns.div_ceil(LANES * lanes::count())
    }

    /// All tasks, with the rows cut in so many parts, or fewer.
    fn tasks(&self, parts: usize) -> impl Iterator<Item = Task<'_>> {
        let width = LANES * lanes::count();
        let rows = self.rows.div_ceil(parts).clamp(LEAST_ROWS, ROWS);
        let rows = rows.next_multiple_of(ROWS_AT_A_TIME);
        let starts = (0..self.rows).step_by(rows);
        starts.flat_map(move |row| {
            (0..self.columns).step_by(width).map(move |column| Task {
                product: self,
                rows: row..self.rows.min(row + rows),
                columns: column..self.columns.min(column + width),
            })
        })
    }
}

/// A part of a term that one panel is laid out for.
struct Piece<'a> {
    term: &'a Term<'a>,
    inner: Range<usize>,
}

impl LanesKernel for Task<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let mut buffers = Buffers::take();
        let Buffers { panel, sums } = &mut buffers;
        let pieces = self.pieces();
        let mut rest = &pieces[..];
        let mut is_first = true;
        while is_first || !rest.is_empty() {
            let (now, later) = rest.split_at(as_many_as_fit(rest));
            let is_last = later.is_empty();
            let panels = self.panels::<L>(now, panel);
            for start in self.rows.clone().step_by(ROWS_AT_A_TIME) {
                let rows = start..self.rows.end.min(start + ROWS_AT_A_TIME);
                // Where all is computed at once, the sums of some rows lie where those of the rows before lay.
                let at = match is_first && is_last {
                    true => 0,
                    false => start - self.rows.start,
                };
                let stride = self.stride::<L>();
                let sums = &mut sums.numbers((at + rows.len()) * stride)[at * stride..];
                self.add::<L>(now, &panels, &rows, is_first, sums);
                // At once, so that the next rows are computed while these are written.
                if is_last {
                    self.finish(rows, sums, stride);
                }
            }
            rest = later;
            is_first = false;
        }
        buffers.give_back();
    }
}

/// How many of the pieces, at least one of some, have panels that lie in a core's own cache together.
#[inline(always)]
fn as_many_as_fit(pieces: &[Piece<'_>]) -> usize {
    let mut inner = 0;
    let mut count = 0;
    for piece in pieces {
        inner += piece.inner.len();
        if count > 0 && inner > INNER {
            break;
        }
        count += 1;
    }
    count
}

impl<'a> Task<'a> {
    /// Numbers from one row of the sums to the next.
    #[inline(always)]
    const fn stride<L: Lanes>(&self) -> usize {
        let columns = self.columns.end - self.columns.start;
        columns.next_multiple_of(L::COUNT)
    }

    /// Of the terms that some of the rows take part in, parts of so much of the inner dimension as a panel has.
    fn pieces(&self) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        for term in &self.product.terms {
            if term.rows.start < self.rows.end && self.rows.start < term.rows.end {
                pieces.extend((0..term.inner).step_by(INNER).map(|start| Piece {
                    term,
                    inner: start..term.inner.min(start + INNER),
                }));
            }
        }
        pieces
    }

    /// Whether a row of the matrix is read and multiplied by all rows, and no panel is laid out.
    #[inline(always)]
    const fn is_of_few(&self, term: &Term<'_>) -> bool {
        self.product.rows <= FEW && term.right.transposed && term.left.column == 1
    }

    /// The panels of some pieces, where there are any.
    #[inline(always)]
    fn panels<'b, L: Lanes>(
        &self,
        pieces: &[Piece<'b>],
        buffers: &'b mut PanelBuffers,
    ) -> Vec<Option<tile::Right<'b>>> {
        let inner: usize = pieces.iter().map(|piece| piece.inner.len()).sum();
        let (mut panel, strip) = buffers.both(inner * self.stride::<L>(), L::COUNT * STRIP);
        let mut panels = Vec::with_capacity(pieces.len());
        for piece in pieces {
            if self.is_of_few(piece.term) {
                panels.push(None);
                continue;
            }
            let (own, rest) = panel.split_at_mut(piece.inner.len() * self.stride::<L>());
            panel = rest;
            let (inner, columns) = (piece.inner.clone(), self.columns.clone());
            let in_place = self.product.rows <= MOST_IN_PLACE;
            let right = &piece.term.right;
            panels.push(Some(right.panel::<L>(inner, columns, own, strip, in_place)));
        }
        panels
    }

    /// Adds to the sums of some rows what the pieces give, or begins the sums.
    #[inline(always)]
    fn add<L: Lanes>(
        &self,
        pieces: &[Piece<'_>],
        panels: &[Option<tile::Right<'_>>],
        rows: &Range<usize>,
        mut begins: bool,
        sums: &mut [f32],
    ) {
        let stride = self.stride::<L>();
        for (piece, panel) in pieces.iter().zip(panels) {
            let of_term = &piece.term.rows;
            let own = rows.start.max(of_term.start)..rows.end.min(of_term.end);
            if own.is_empty() {
                continue;
            }
            if begins && own != *rows {
                sums[..rows.len() * stride].fill(0.0);
                begins = false;
            }
            let term = piece.term;
            let first = (own.start - of_term.start) * term.left.row;
            let left = Left {
                numbers: &term.left.numbers[first + piece.inner.start * term.left.column..],
                ..term.left
            };
            let sums = &mut sums[(own.start - rows.start) * stride..];
            match panel {
                Some(right) => {
                    let mut out = tile::Out {
                        numbers: sums,
                        stride,
                        adds: !begins,
                    };
                    let size = (own.len(), piece.inner.len(), stride);
                    tile::product::<L>(left, *right, &mut out, size);
                }
                None => self.add_few::<L>(piece, left, own.len(), begins, sums),
            }
            begins = false;
        }
        if begins {
            sums[..rows.len() * stride].fill(0.0);
        }
    }

    /// The same for few rows of a piece whose right matrix is one transposed: each of that one's rows is read once.
    #[inline(always)]
    fn add_few<L: Lanes>(
        &self,
        piece: &Piece<'_>,
        left: Left<'_>,
        rows: usize,
        begins: bool,
        sums: &mut [f32],
    ) {
        let (stride, length) = (self.stride::<L>(), piece.inner.len());
        let mut strip = [0.0; INNER];
        let strip = &mut strip[..length];
        for (at, column) in self.columns.clone().enumerate() {
            let matrix = &piece.term.right.matrix;
            matrix.read::<L>(column, piece.inner.clone(), strip);
            for row in 0..rows {
                let of_row = &left.numbers[row * left.row..][..length];
                let product = dot::<L>(of_row, strip);
                let sum = &mut sums[row * stride + at];
                *sum = if begins { product } else { *sum + product };
            }
        }
    }

    #[inline(always)]
    fn finish(&self, rows: Range<usize>, sums: &mut [f32], stride: usize) {
        let out = &self.product.out;
        for (row, sums) in rows.zip(sums.chunks_exact_mut(stride)) {
            let sums = &mut sums[..self.columns.len()];
            if out.factor.to_bits() != 1.0_f32.to_bits() {
                for sum in sums.iter_mut() {
                    *sum *= out.factor;
                }
            }
            if let Some(bias) = out.bias {
                let bias = &bias[self.columns.clone()];
                for index in 0..sums.len() {
                    sums[index] += bias[index];
                }
            }
            let start = row * out.row + self.columns.start * out.column;
            // SAFETY: tasks have rows and columns of their own, and a product's result is no other's.
            #[expect(unsafe_code, reason = "threads write to places between each other's")]
            unsafe {
                // The distance 1 by name, so that the compiler makes whole registers of it.
                match (out.numbers, out.column) {
                    (OutNumbers::Float(to), 1) => to.write(start, 1, sums, out.adds),
                    (OutNumbers::Brain(to), 1) => to.write(start, 1, sums, out.adds),
                    (OutNumbers::Float(to), column) => to.write(start, column, sums, out.adds),
                    (OutNumbers::Brain(to), column) => to.write(start, column, sums, out.adds),
                }
            }
        }
    }
}

/// left·right, in sums of four registers' lanes.
#[inline(always)]
fn dot<L: Lanes>(left: &[f32], right: &[f32]) -> f32 {
    let right = &right[..left.len()];
    let step = 4 * L::COUNT;
    let mut sums = [L::splat(0.0); 4];
    let whole = left.len() / step * step;
    for start in (0..whole).step_by(step) {
        for part in 0..4 {
            let at = start + part * L::COUNT;
            sums[part] = L::of(left, at).times_plus(L::of(right, at), sums[part]);
        }
    }
    let sum = sums[0].plus(sums[1]).plus(sums[2].plus(sums[3]));
    let mut total = sum.total();
    for at in whole..left.len() {
        total += left[at] * right[at];
    }
    total
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::panel::{Matrix, Numbers};
    use super::*;

    /// Small whole numbers, with which every sum is exact.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|index| ((index * 31 + seed) % 17) as f32 - 8.0)
            .collect()
    }

    /// Which products are computed.
    #[derive(Clone, Debug)]
    struct Shape {
        rows: usize,
        /// Of each term: the inner dimension, the rows of the result that it is a part of, and whether its right matrix is one transposed.
        terms: Vec<(usize, Range<usize>, bool)>,
        columns: usize,
        adds: bool,
        transposed_out: bool,
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        (1_usize..130, 1_usize..120).prop_flat_map(|(rows, columns)| {
            let term = (1_usize..40, 0..rows, 1..=rows, any::<bool>());
            let term = term.prop_map(|(inner, start, end, transposed)| {
                (inner, start.min(end - 1)..end, transposed)
            });
            (
                prop::collection::vec(term, 0..4),
                any::<bool>(),
                any::<bool>(),
            )
                .prop_map(move |(terms, adds, transposed_out)| Shape {
                    rows,
                    terms,
                    columns,
                    adds,
                    transposed_out,
                })
        })
    }

    proptest! {
        #[test]
        fn a_sum_of_products_is_exact_whatever_its_terms_and_shapes(shape in shapes()) {
            let Shape { rows, terms, columns, adds, transposed_out } = shape;
            let place = |row: usize, column: usize| match transposed_out {
                true => column * rows + row,
                false => row * columns + column,
            };
            let bias = numbers(columns, 3);
            let mut expected = vec![0.0; rows * columns];
            let data: Vec<_> = terms
                .iter()
                .map(|(inner, of, _)| (numbers(of.len() * inner, 5), numbers(inner * columns, 7)))
                .collect();
            for row in 0..rows {
                for column in 0..columns {
                    let mut sum = 0.0;
                    for ((inner, of, transposed), (left, right)) in terms.iter().zip(&data) {
                        if of.contains(&row) {
                            for k in 0..*inner {
                                let right = match transposed {
                                    true => right[column * inner + k],
                                    false => right[k * columns + column],
                                };
                                sum += left[(row - of.start) * inner + k] * right;
                            }
                        }
                    }
                    let before = if adds { 1.0 } else { 0.0 };
                    expected[place(row, column)] = before + 0.5 * sum + bias[column];
                }
            }
            let mut found = vec![1.0; rows * columns];
            let terms = terms.iter().zip(&data).map(|((inner, of, transposed), (left, right))| Term {
                rows: of.clone(),
                left: Left { numbers: left, row: *inner, column: 1 },
                inner: *inner,
                right: Right {
                    matrix: Matrix {
                        numbers: Numbers::Float(right),
                        width: if *transposed { *inner } else { columns },
                        rounded: false,
                    },
                    transposed: *transposed,
                },
            });
            run(&[Product {
                terms: terms.collect(),
                rows,
                columns,
                out: Out {
                    numbers: OutNumbers::Float(Shared::new(&mut found)),
                    row: if transposed_out { 1 } else { columns },
                    column: if transposed_out { rows } else { 1 },
                    factor: 0.5,
                    bias: Some(&bias),
                    adds,
                },
            }]);
            prop_assert_eq!(found, expected);
        }
    }
}
