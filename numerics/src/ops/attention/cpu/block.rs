//! What forward and backward share: fp32 copies of a document's rows, blocks of queries laid out for products, and the scores of a block.

use super::{AttentionSettings, Part};
use crate::ops::cpu::lanes::{Lanes, tanh};
use crate::ops::cpu::memory::{Element, Planes};
use crate::ops::cpu::tile::{Left, Out, Right, product};

/// Queries of a block: the columns of its scores.
pub(super) const QUERIES: usize = 64;

/// Keys of a block: the rows of its scores.
pub(super) const KEYS: usize = 64;

/// What a score becomes whose key is not seen: next to any other its exponential is 0, and it is a number, so that a row of them is
/// no fault before the first key that is seen.
const UNSEEN: f32 = -1e30;

/// Rows of fp32 numbers, each with zeros up to a width that lanes fill.
pub(super) struct Wide {
    pub(super) numbers: Vec<f32>,
    /// Numbers from one row to the next.
    pub(super) stride: usize,
}

impl Wide {
    /// `count` rows of a plane, from `first` on.
    #[inline(always)]
    pub(super) fn of<T: Element>(
        planes: &Planes<'_, T>,
        (batch, head): (usize, usize),
        first: usize,
        count: usize,
        step: usize,
    ) -> Self {
        let width = planes.row(batch, head, first).len();
        let mut wide = Self::zeros(count, width, step);
        // By index: the compiler leaves the calls of two zipped iterators in so large a loop.
        for at in 0..count {
            let from = planes.row(batch, head, first + at);
            let to = &mut wide.numbers[at * wide.stride..][..width];
            for index in 0..width {
                to[index] = from[index].widen();
            }
        }
        wide
    }

    /// So many rows of zeros, for `width` numbers each.
    #[inline(always)]
    pub(super) fn zeros(count: usize, width: usize, step: usize) -> Self {
        let stride = width.next_multiple_of(step);
        Self {
            numbers: vec![0.0; count * stride],
            stride,
        }
    }

    /// The rows from `first` on.
    #[inline(always)]
    pub(super) fn rows_from(&self, first: usize) -> &[f32] {
        &self.numbers[first * self.stride..]
    }

    /// As a matrix whose rows are walked, from row `first` on.
    #[inline(always)]
    pub(super) fn left(&self, first: usize) -> Left<'_> {
        Left {
            numbers: self.rows_from(first),
            row: self.stride,
            column: 1,
        }
    }

    /// As a right matrix, from row `first` on.
    #[inline(always)]
    pub(super) fn right(&self, first: usize) -> Right<'_> {
        Right {
            numbers: self.rows_from(first),
            stride: self.stride,
        }
    }

    /// To be added to, from row `first` on.
    #[inline(always)]
    pub(super) fn sum(&mut self, first: usize) -> Out<'_> {
        Out {
            numbers: &mut self.numbers[first * self.stride..],
            stride: self.stride,
            adds: true,
        }
    }
}

/// Up to [`QUERIES`] rows as columns: (D, QUERIES). Columns past the rows are zeros, or what a block before left there; nothing that is
/// computed from them is used.
#[inline(always)]
pub(super) fn transpose<L: Lanes>(rows: &[f32], stride: usize, width: usize, columns: &mut [f32]) {
    let columns = &mut columns[..width * QUERIES];
    let count = QUERIES.min(rows.len() / stride);
    let (whole_rows, whole) = (count / L::COUNT * L::COUNT, width / L::COUNT * L::COUNT);
    for row in (0..whole_rows).step_by(L::COUNT) {
        for index in (0..whole).step_by(L::COUNT) {
            // SAFETY: COUNT rows of COUNT numbers are there, within the rows and the width, and as many columns within those of the block.
            #[expect(
                unsafe_code,
                reason = "a transposition reads and writes where rows lie"
            )]
            unsafe {
                let from = rows.as_ptr().add(row * stride + index);
                let to = columns.as_mut_ptr().add(index * QUERIES + row);
                L::transpose(from, stride, to, QUERIES);
            }
        }
    }
    for row in 0..count {
        let done = if row < whole_rows { whole } else { 0 };
        for index in done..width {
            columns[index * QUERIES + row] = rows[row * stride + index];
        }
    }
}

/// Some consecutive queries of a document and some consecutive keys, counted from the document's first.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// The first query, counted as the key that it sees last.
    pub(super) query: usize,
    pub(super) queries: usize,
    pub(super) key: usize,
    pub(super) keys: usize,
}

/// The keys that some of these queries see, block by block. `query` is counted as the key that it sees last.
#[inline(always)]
pub(super) fn blocks(
    query: usize,
    queries: usize,
    window: Option<i64>,
) -> impl Iterator<Item = Block> {
    let end = query + queries;
    let first = match window {
        None => 0,
        Some(window) => (query + 1).saturating_sub(window as usize),
    };
    (first / KEYS * KEYS..end)
        .step_by(KEYS)
        .map(move |key| Block {
            query,
            queries,
            key,
            keys: KEYS.min(end - key),
        })
}

impl Block {
    /// The scores (keys, [`QUERIES`]): capped, and [`UNSEEN`] where a query does not see the key. `columns` are the queries of the
    /// block (D, QUERIES), of which so many are computed as lanes fill.
    #[inline(always)]
    pub(super) fn scores<L: Lanes>(
        &self,
        keys: &Wide,
        columns: &[f32],
        width: usize,
        filled: usize,
        settings: &AttentionSettings,
        scores: &mut [f32],
    ) {
        let right = Right {
            numbers: columns,
            stride: QUERIES,
        };
        let mut out = Out {
            numbers: scores,
            stride: QUERIES,
            adds: false,
        };
        product::<L>(
            keys.left(self.key),
            right,
            &mut out,
            (self.keys, width, filled),
        );
        let scale = settings.scale as f32;
        let cap = settings.soft_cap.map(|cap| cap as f32);
        let factor = L::splat(scale / cap.unwrap_or(1.0));
        for key in 0..self.keys {
            for start in (0..filled).step_by(L::COUNT) {
                let at = key * QUERIES + start;
                let mut score = L::of(scores, at).times(factor);
                if let Some(cap) = cap {
                    score = tanh(score).times(L::splat(cap));
                }
                score.write(scores, at);
            }
        }
        self.hide(filled, settings.window, scores);
    }

    /// Takes out the scores of keys that a query does not see.
    #[inline(always)]
    fn hide(&self, filled: usize, window: Option<i64>, scores: &mut [f32]) {
        let window = window.map_or(usize::MAX, |window| window as usize);
        let all_see_last = self.key + self.keys <= self.query + 1;
        let all_see_first = self.query + self.queries - self.key <= window;
        if all_see_last && all_see_first {
            return;
        }
        for index in 0..self.keys {
            let row = &mut scores[index * QUERIES..(index + 1) * QUERIES];
            let key = self.key + index;
            // The queries that see it: itself and those after it, as far as the window goes.
            let from = key.saturating_sub(self.query).min(filled);
            let end = key
                .saturating_add(window)
                .saturating_sub(self.query)
                .clamp(from, filled);
            row[..from].fill(UNSEEN);
            row[end..filled].fill(UNSEEN);
        }
    }

    /// Multiplies probabilities or their gradients (keys, [`QUERIES`]) by the mask of the dropout.
    #[inline(always)]
    pub(super) fn drop_out(&self, part: &Part, numbers: &mut [f32]) {
        let Some((dropout, first_row)) = part.dropout else {
            return;
        };
        let first_query = self.query + part.queries - part.keys;
        for query in 0..self.queries {
            let mask = dropout.of_row(first_row + first_query + query);
            for key in 0..self.keys {
                numbers[key * QUERIES + query] *= mask.factor((self.key + key) as u32);
            }
        }
    }
}
