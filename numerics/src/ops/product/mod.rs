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

pub(crate) mod matmul;
pub(crate) mod panel;
pub(crate) mod rows;
pub(crate) mod widening_product;

use std::ops::Range;

use half::bf16;

use self::panel::{Buffer, Buffers, PanelBuffers, Right, STRIP};
use super::cpu::brgemm;
use super::cpu::lanes::{self, Lanes, LanesKernel};
use super::cpu::memory::Shared;
use super::cpu::threads;
use super::cpu::tile::{self, Left};

/// Registers of a panel's columns.
const LANES: usize = 3;

/// The same where a kernel multiplies bfloat16: two of AMX's tiles twice.
const KERNEL_LANES: usize = 4;

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

/// The same where a kernel multiplies bfloat16.
const KERNEL_ROWS_AT_A_TIME: usize = 64;

/// Up to so many rows, a row of the matrix is read and multiplied by them, and no panel is laid out.
const FEW: usize = 7;

/// One of the products that a result is the sum of.
#[derive(Clone, Debug)]
pub(crate) struct Term<'a> {
    /// The result's rows that it is a part of. The left matrix has as many.
    pub(crate) rows: Range<usize>,
    pub(crate) left: TermLeft<'a>,
    pub(crate) inner: usize,
    pub(crate) right: Right<'a>,
}

/// The left matrix of a term.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TermLeft<'a> {
    /// fp32, multiplied by our own loops.
    Float(Left<'a>),
    /// Whole rows of the inner dimension in bfloat16, end to end, multiplied by the kernel of [`brgemm`], which must be usable. The
    /// right matrix is then taken in bfloat16, too.
    Brain(&'a [bf16]),
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
    rows_at_a_time: usize,
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

    /// Whether the kernel for bfloat16 multiplies some of it.
    fn has_kernel(&self) -> bool {
        let is_brain = |term: &Term<'_>| matches!(term.left, TermLeft::Brain(_));
        self.terms.iter().any(is_brain)
    }

    /// Columns of a panel.
    fn panel_width(&self) -> usize {
        let registers = if self.has_kernel() {
            KERNEL_LANES
        } else {
            LANES
        };
        registers * lanes::count()
    }

    /// How many panels it has.
    fn panels(&self) -> usize {
        self.columns.div_ceil(self.panel_width())
    }

    /// All tasks, with the rows cut in so many parts, or fewer.
    fn tasks(&self, parts: usize) -> impl Iterator<Item = Task<'_>> {
        let width = self.panel_width();
        let rows_at_a_time = match self.has_kernel() {
            true => KERNEL_ROWS_AT_A_TIME,
            false => ROWS_AT_A_TIME,
        };
        let rows = self.rows.div_ceil(parts).clamp(LEAST_ROWS, ROWS);
        let rows = rows.next_multiple_of(rows_at_a_time);
        let starts = (0..self.rows).step_by(rows);
        starts.flat_map(move |row| {
            (0..self.columns).step_by(width).map(move |column| Task {
                product: self,
                rows_at_a_time,
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

/// What a piece's right matrix is multiplied as.
enum Panel<'a> {
    /// Row by row as it lies: no panel.
    None,
    /// fp32.
    Float(tile::Right<'a>),
    /// Two rows of bfloat16 in each.
    Pairs(&'a [f32]),
}

impl LanesKernel for Task<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let mut buffers = Buffers::take();
        let Buffers { panel, sums, left } = &mut buffers;
        let pieces = self.pieces();
        let mut rest = &pieces[..];
        let mut is_first = true;
        while is_first || !rest.is_empty() {
            let (now, later) = rest.split_at(as_many_as_fit(rest));
            let is_last = later.is_empty();
            let panels = self.panels::<L>(now, panel);
            for start in self.rows.clone().step_by(self.rows_at_a_time) {
                let rows = start..self.rows.end.min(start + self.rows_at_a_time);
                // Where all is computed at once, the sums of some rows lie where those of the rows before lay.
                let at = match is_first && is_last {
                    true => 0,
                    false => start - self.rows.start,
                };
                let stride = self.stride::<L>();
                // The kernel computes whole tiles: there is room for rows behind the last.
                let most = at + rows.len() + brgemm::ROW_STEP;
                let sums = &mut sums.numbers(most * stride)[at * stride..];
                self.add::<L>(now, &panels, &rows, is_first, sums, left);
                // At once, so that the next rows are computed while these are written.
                if is_last {
                    self.finish(rows, sums, stride);
                }
            }
            rest = later;
            is_first = false;
        }
        if self.product.has_kernel() {
            brgemm::release();
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
        let lies_in_rows = matches!(term.left, TermLeft::Float(Left { column: 1, .. }));
        self.product.rows <= FEW && term.right.transposed && lies_in_rows
    }

    /// The panels of some pieces, where there are any.
    #[inline(always)]
    fn panels<'b, L: Lanes>(
        &self,
        pieces: &[Piece<'b>],
        buffers: &'b mut PanelBuffers,
    ) -> Vec<Panel<'b>> {
        let inner: usize = pieces.iter().map(|piece| piece.inner.len()).sum();
        let (mut panel, strip) = buffers.both(inner * self.stride::<L>(), L::COUNT * STRIP);
        let mut panels = Vec::with_capacity(pieces.len());
        for piece in pieces {
            if self.is_of_few(piece.term) {
                panels.push(Panel::None);
                continue;
            }
            let (own, rest) = panel.split_at_mut(piece.inner.len() * self.stride::<L>());
            panel = rest;
            let (inner, columns) = (piece.inner.clone(), self.columns.clone());
            let in_place = self.product.rows <= MOST_IN_PLACE;
            let right = &piece.term.right;
            panels.push(match piece.term.left {
                TermLeft::Float(_) => {
                    Panel::Float(right.panel::<L>(inner, columns, own, strip, in_place))
                }
                TermLeft::Brain(_) => Panel::Pairs(right.pairs::<L>(inner, columns, own, strip)),
            });
        }
        panels
    }

    /// Adds to the sums of some rows what the pieces give, or begins the sums.
    #[inline(always)]
    fn add<L: Lanes>(
        &self,
        pieces: &[Piece<'_>],
        panels: &[Panel<'_>],
        rows: &Range<usize>,
        mut begins: bool,
        sums: &mut [f32],
        buffer: &mut Buffer,
    ) {
        let stride = self.stride::<L>();
        for at in 0..pieces.len() {
            let (piece, panel) = (&pieces[at], &panels[at]);
            let (term, of_term) = (piece.term, &piece.term.rows);
            let own = rows.start.max(of_term.start)..rows.end.min(of_term.end);
            if own.is_empty() {
                continue;
            }
            if begins && own != *rows {
                sums[..rows.len() * stride].fill(0.0);
                begins = false;
            }
            let first = own.start - of_term.start;
            let sums = &mut sums[(own.start - rows.start) * stride..];
            match (term.left, panel) {
                (TermLeft::Float(left), panel) => {
                    let start = first * left.row + piece.inner.start * left.column;
                    let left = Left {
                        numbers: &left.numbers[start..],
                        ..left
                    };
                    if let Panel::Float(right) = panel {
                        let mut out = tile::Out {
                            numbers: sums,
                            stride,
                            adds: !begins,
                        };
                        let size = (own.len(), piece.inner.len(), stride);
                        tile::product::<L>(left, *right, &mut out, size);
                    } else {
                        self.add_few::<L>(piece, left, own.len(), begins, sums);
                    }
                }
                (TermLeft::Brain(left), Panel::Pairs(right)) => {
                    let left = &left[first * term.inner + piece.inner.start..];
                    let left = KernelLeft::of(left, term.inner, own.len(), &piece.inner, buffer);
                    let size = brgemm::Size {
                        rows: left.rows,
                        inner: piece.inner.len(),
                        columns: stride,
                    };
                    brgemm::product(left.numbers, left.stride, right, sums, !begins, size);
                }
                (TermLeft::Brain(_), _) => {}
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
        for at in 0..rows.len() {
            let row = rows.start + at;
            let sums = &mut sums[at * stride..][..self.columns.len()];
            if out.factor.to_bits() != 1.0_f32.to_bits() {
                for index in 0..sums.len() {
                    sums[index] *= out.factor;
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

/// Rows as the kernel for bfloat16 reads them: as many as fill its tiles.
struct KernelLeft<'a> {
    numbers: &'a [bf16],
    stride: usize,
    rows: usize,
}

impl<'a> KernelLeft<'a> {
    /// The first `rows` of rows that are `stride` numbers apart, in the columns `inner`: where they lie, or with rows of zeros behind
    /// them in the buffer.
    fn of(
        numbers: &'a [bf16],
        stride: usize,
        rows: usize,
        inner: &Range<usize>,
        buffer: &'a mut Buffer,
    ) -> Self {
        let filled = rows.next_multiple_of(brgemm::ROW_STEP);
        if filled == rows {
            return Self {
                numbers,
                stride,
                rows,
            };
        }
        let width = inner.len();
        let copy = buffer.brains(filled * width);
        for row in 0..rows {
            copy[row * width..(row + 1) * width]
                .copy_from_slice(&numbers[row * stride..row * stride + width]);
        }
        copy[rows * width..].fill(bf16::ZERO);
        Self {
            numbers: copy,
            stride: width,
            rows: filled,
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
                left: TermLeft::Float(Left { numbers: left, row: *inner, column: 1 }),
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

    #[test]
    fn rows_of_bfloat16_times_a_matrix_in_any_form_are_exact_by_the_processors_kernel() {
        if !brgemm::is_usable() {
            return;
        }
        for (rows, inner, columns) in [(16, 32, 16), (50, 96, 40), (130, 2080, 200), (64, 576, 64)]
        {
            for transposed in [false, true] {
                let (left, right) = (numbers(rows * inner, 5), numbers(inner * columns, 7));
                let place = |k: usize, column: usize| match transposed {
                    true => column * inner + k,
                    false => k * columns + column,
                };
                let added = numbers(rows * columns, 3);
                let expected: Vec<f32> = (0..rows * columns)
                    .map(|index| {
                        let (row, column) = (index / columns, index % columns);
                        let terms =
                            (0..inner).map(|k| left[row * inner + k] * right[place(k, column)]);
                        // The second term, with one inner row of ones, adds a number to each row.
                        terms.sum::<f32>() + added[row]
                    })
                    .collect();
                let brain: Vec<bf16> = left.iter().map(|number| bf16::from_f32(*number)).collect();
                let ones = vec![1.0; columns];
                let matrix = |numbers, width| Matrix {
                    numbers: Numbers::Float(numbers),
                    width,
                    rounded: false,
                };
                let mut found = vec![f32::NAN; rows * columns];
                run(&[Product {
                    terms: vec![
                        Term {
                            rows: 0..rows,
                            left: TermLeft::Brain(&brain),
                            inner,
                            right: Right {
                                matrix: matrix(&right, if transposed { inner } else { columns }),
                                transposed,
                            },
                        },
                        Term {
                            rows: 0..rows,
                            left: TermLeft::Float(Left {
                                numbers: &added,
                                row: 1,
                                column: 1,
                            }),
                            inner: 1,
                            right: matrix(&ones, columns).direct(),
                        },
                    ],
                    rows,
                    columns,
                    out: Out {
                        numbers: OutNumbers::Float(Shared::new(&mut found)),
                        row: columns,
                        column: 1,
                        factor: 1.0,
                        bias: None,
                        adds: false,
                    },
                }]);
                assert_eq!(found, expected, "{rows} {inner} {columns} {transposed}");
            }
        }
    }
}
