//! Some columns of some rows of a product: laid out, multiplied, summed and finished by one thread.
#![expect(
    clippy::needless_range_loop,
    reason = "of iterators here the compiler would make calls without the instructions"
)]

use std::ops::Range;

use half::bf16;

use super::panel::{Buffer, Buffers, PanelBuffers, STRIP};
use super::terms::{OutNumbers, Product, Term, TermLeft};
use crate::ops::cpu::brgemm;
use crate::ops::cpu::lanes::{Lanes, LanesKernel};
use crate::ops::cpu::tile::{self, Left};

/// The most of the inner dimension of panels that are used together.
const INNER: usize = 2048;

/// Up to so many rows, a right matrix is read where it lies.
const MOST_IN_PLACE: usize = 32;

/// Up to so many rows, a row of the matrix is read and multiplied by them, and no panel is laid out.
const FEW: usize = 7;

/// Some columns of some rows of a product.
#[derive(Clone, Debug)]
pub(super) struct Task<'a> {
    pub(super) product: &'a Product<'a>,
    pub(super) rows_at_a_time: usize,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
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
