//! The backward of one head's queries of one document, with the parts of the gradients of keys and values that come from that head.

use std::ops::Range;

use super::block::{Block, KEYS, QUERIES, Wide, blocks, transpose};
use super::{AttentionSettings, Part};
use crate::ops::cpu::lanes::{Lanes, LanesKernel, MOST_LANES, exp};
use crate::ops::cpu::memory::{Element, Planes};
use crate::ops::cpu::tile::{Left, Out, Right, product};

/// What all tasks read.
pub(super) struct Inputs<'a, T> {
    /// (B, heads, T, D).
    pub(super) queries: Planes<'a, T>,
    /// (B, key heads, T, D).
    pub(super) keys: Planes<'a, T>,
    pub(super) values: Planes<'a, T>,
    /// (B, heads, T, D).
    pub(super) output: Planes<'a, T>,
    pub(super) d_output: Planes<'a, T>,
}

impl<T> Clone for Inputs<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Inputs<'_, T> {}

/// The task.
pub(super) struct Backward<'a, T> {
    pub(super) part: Part,
    pub(super) settings: AttentionSettings,
    pub(super) inputs: Inputs<'a, T>,
    /// One of each query.
    pub(super) log_sums: &'a [f32],
    /// The part's rows (queries, D).
    pub(super) d_queries: &'a mut [T],
    /// Of its key head's what this head gives (keys, D).
    pub(super) d_keys: &'a mut [f32],
    pub(super) d_values: &'a mut [f32],
}

impl<T: Element> LanesKernel for Backward<'_, T> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let part = self.part;
        let (step, width) = (L::COUNT, self.d_queries.len() / part.queries);
        let (of_queries, of_keys) = ((part.batch, part.head), (part.batch, part.key_head));
        let rows =
            |planes: &Planes<'_, T>, place| Wide::of(planes, place, part.first, part.queries, step);
        let rows = Rows {
            queries: rows(&self.inputs.queries, of_queries),
            keys: rows(&self.inputs.keys, of_keys),
            values: rows(&self.inputs.values, of_keys),
            d_output: rows(&self.inputs.d_output, of_queries),
        };
        let mut d_keys = Wide::zeros(part.queries, width, step);
        let mut d_values = Wide::zeros(part.queries, width, step);
        let mut scratch = Scratch {
            queries: vec![0.0; width * QUERIES],
            d_output: vec![0.0; width * QUERIES],
            probabilities: vec![0.0; KEYS * QUERIES],
            d_scores: vec![0.0; KEYS * QUERIES],
        };
        let outputs = self.d_queries.chunks_mut(QUERIES * width);
        let outputs = outputs.zip(self.log_sums.chunks(QUERIES));
        for ((d_queries, log_sums), first) in outputs.zip((0..).step_by(QUERIES)) {
            let of_block = Queries {
                filled: log_sums.len().next_multiple_of(step),
                log_sums: padded(log_sums),
                along: along_output::<L, T>(
                    &self.inputs,
                    part,
                    &rows.d_output,
                    first..first + log_sums.len(),
                ),
            };
            let stride = rows.queries.stride;
            transpose::<L>(
                rows.queries.rows_from(first),
                stride,
                width,
                &mut scratch.queries,
            );
            transpose::<L>(
                rows.d_output.rows_from(first),
                stride,
                width,
                &mut scratch.d_output,
            );
            let mut sums = Wide::zeros(log_sums.len(), width, step);
            for block in blocks(first, log_sums.len(), self.settings.window) {
                let settings = &self.settings;
                scratch.compute::<L>(&block, &rows, &of_block, (part, settings), width);
                let (keys, queries) = (block.keys, block.queries);
                // By key: (keys, queries)·(queries, D).
                let by_key = |numbers| Left {
                    numbers,
                    row: QUERIES,
                    column: 1,
                };
                let sizes = (keys, queries, stride);
                let right = rows.d_output.right(first);
                product::<L>(
                    by_key(&scratch.probabilities),
                    right,
                    &mut d_values.sum(block.key),
                    sizes,
                );
                let right = rows.queries.right(first);
                product::<L>(
                    by_key(&scratch.d_scores),
                    right,
                    &mut d_keys.sum(block.key),
                    sizes,
                );
                // By query: (queries, keys)·(keys, D).
                let by_query = Left {
                    numbers: &scratch.d_scores,
                    row: 1,
                    column: QUERIES,
                };
                let right = rows.keys.right(block.key);
                product::<L>(by_query, right, &mut sums.sum(0), (queries, keys, stride));
            }
            write(&sums, width, d_queries);
        }
        write(&d_keys, width, self.d_keys);
        write(&d_values, width, self.d_values);
    }
}

/// do·o of each of some queries: what the softmax takes out of the gradients of its probabilities.
#[inline(always)]
fn along_output<L: Lanes, T: Element>(
    inputs: &Inputs<'_, T>,
    part: Part,
    d_output: &Wide,
    queries: Range<usize>,
) -> [f32; QUERIES] {
    let mut along = [0.0; QUERIES];
    let rows = d_output.rows_from(queries.start);
    for at in 0..queries.len() {
        let query = part.first + queries.start + at;
        let output = inputs.output.row(part.batch, part.head, query);
        let d_output = &rows[at * d_output.stride..(at + 1) * d_output.stride];
        along[at] = dot::<L, T>(d_output, output);
    }
    along
}

/// left·right, of a row with zeros up to whole lanes and one of T.
#[inline(always)]
fn dot<L: Lanes, T: Element>(left: &[f32], right: &[T]) -> f32 {
    let mut sum = L::splat(0.0);
    for start in (0..right.len()).step_by(L::COUNT) {
        let mut wide = [0.0; MOST_LANES];
        for index in 0..L::COUNT.min(right.len() - start) {
            wide[index] = right[start + index].widen();
        }
        sum = L::of(left, start).times_plus(L::of(&wide, 0), sum);
    }
    sum.total()
}

/// fp32 rows of the document.
struct Rows {
    queries: Wide,
    keys: Wide,
    values: Wide,
    d_output: Wide,
}

/// What is known of a block of queries.
struct Queries {
    /// The columns that are computed.
    filled: usize,
    log_sums: [f32; QUERIES],
    along: [f32; QUERIES],
}

/// What the blocks of a task are computed in.
struct Scratch {
    /// The block's queries as columns (D, QUERIES).
    queries: Vec<f32>,
    /// The gradients of their outputs as columns.
    d_output: Vec<f32>,
    /// (KEYS, QUERIES): under the mask of the dropout.
    probabilities: Vec<f32>,
    d_scores: Vec<f32>,
}

impl Scratch {
    /// Computes probabilities and the gradients of the products q·k of a block.
    #[inline(always)]
    fn compute<L: Lanes>(
        &mut self,
        block: &Block,
        rows: &Rows,
        queries: &Queries,
        (part, settings): (Part, &AttentionSettings),
        width: usize,
    ) {
        let filled = queries.filled;
        block.scores::<L>(
            &rows.keys,
            &self.queries,
            width,
            filled,
            settings,
            &mut self.probabilities,
        );
        let right = Right {
            numbers: &self.d_output,
            stride: QUERIES,
        };
        let mut out = Out {
            numbers: &mut self.d_scores,
            stride: QUERIES,
            adds: false,
        };
        product::<L>(
            rows.values.left(block.key),
            right,
            &mut out,
            (block.keys, width, filled),
        );
        block.drop_out(&part, &mut self.d_scores);
        let (scale, one) = (L::splat(settings.scale as f32), L::splat(1.0));
        let inverse_cap = settings.soft_cap.map(|cap| L::splat(1.0 / cap as f32));
        for start in (0..filled).step_by(L::COUNT) {
            let log_sums = L::of(&queries.log_sums, start);
            let along = L::of(&queries.along, start);
            for key in 0..block.keys {
                let at = key * QUERIES + start;
                let score = L::of(&self.probabilities, at);
                let probability = exp(score.minus(log_sums));
                let mut slope = L::of(&self.d_scores, at).minus(along).times(scale);
                if let Some(inverse_cap) = inverse_cap {
                    // tanh' = 1 - tanh², of a score that is seen; the probability of another is 0.
                    let tanh = score.times(inverse_cap).max(L::splat(-1.0));
                    slope = slope.times(one.minus(tanh.times(tanh)));
                }
                probability.write(&mut self.probabilities, at);
                probability.times(slope).write(&mut self.d_scores, at);
            }
        }
        block.drop_out(&part, &mut self.probabilities);
    }
}

/// Those of up to [`QUERIES`] queries, with zeros behind them.
#[inline(always)]
fn padded(numbers: &[f32]) -> [f32; QUERIES] {
    let mut padded = [0.0; QUERIES];
    padded[..numbers.len()].copy_from_slice(numbers);
    padded
}

/// Writes the first `width` numbers of each row.
#[inline(always)]
fn write<T: Element>(rows: &Wide, width: usize, to: &mut [T]) {
    for row in 0..to.len() / width {
        let from = &rows.numbers[row * rows.stride..][..width];
        let to = &mut to[row * width..][..width];
        for index in 0..width {
            to[index] = T::round(from[index]);
        }
    }
}
