//! The forward of one head's queries of one document.

use super::block::{Block, KEYS, QUERIES, Wide, blocks, transpose};
use super::few;
use super::task::{Forward, Output};
use crate::ops::cpu::lanes::{Lanes, LanesKernel, exp};
use crate::ops::cpu::memory::Element;
use crate::ops::cpu::tile::{Left, product};

impl<T: Element> LanesKernel for Forward<'_, T> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        if self.part.queries < few::FEW {
            few::forward(self);
            return;
        }
        let part = self.part;
        let (step, width) = (L::COUNT, self.output.width);
        let of_keys = (part.batch, part.key_head);
        let keys = Wide::of(&self.keys, of_keys, part.first, part.keys, step);
        let values = Wide::of(&self.values, of_keys, part.first, part.keys, step);
        let mut columns = vec![0.0; width * QUERIES];
        let mut scores = vec![0.0; KEYS * QUERIES];
        for (first, log_sums) in (0..)
            .step_by(QUERIES)
            .zip(self.log_sums.chunks_mut(QUERIES))
        {
            let count = log_sums.len();
            let of_queries = (part.batch, part.head);
            let queries = Wide::of(&self.queries, of_queries, part.first + first, count, step);
            transpose::<L>(&queries.numbers, queries.stride, width, &mut columns);
            let mut sums = Sums {
                most: [f32::MIN; QUERIES],
                sum: [0.0; QUERIES],
                output: Wide::zeros(count, width, step),
                filled: count.next_multiple_of(step),
            };
            let last_seen = first + part.keys - part.queries;
            for block in blocks(last_seen, count, self.settings.window) {
                let filled = sums.filled;
                block.scores::<L>(&keys, &columns, width, filled, &self.settings, &mut scores);
                sums.add_block::<L>(&block, &mut scores);
                block.drop_out(&part, &mut scores);
                let probabilities = Left {
                    numbers: &scores,
                    row: 1,
                    column: QUERIES,
                };
                let sizes = (count, block.keys, sums.output.stride);
                let of_block = values.right(block.key);
                product::<L>(probabilities, of_block, &mut sums.output.sum(0), sizes);
            }
            sums.write(&self.output, first, log_sums);
        }
    }
}

/// What is known of a block of queries after some of their keys.
struct Sums {
    /// The greatest score of each query.
    most: [f32; QUERIES],
    /// The sum of e^(score - most).
    sum: [f32; QUERIES],
    /// The sums of e^(score - most) · v (queries, D).
    output: Wide,
    /// The columns that are computed.
    filled: usize,
}

impl Sums {
    /// Takes in the scores of a block, which become e^(score - most); what was summed before is brought to the new greatest score.
    #[inline(always)]
    fn add_block<L: Lanes>(&mut self, block: &Block, scores: &mut [f32]) {
        let mut shrink = [1.0; QUERIES];
        for start in (0..self.filled).step_by(L::COUNT) {
            let before = L::of(&self.most, start);
            let mut most = before;
            for key in 0..block.keys {
                most = most.max(L::of(scores, key * QUERIES + start));
            }
            let shrunk = exp(before.minus(most));
            let mut sum = L::of(&self.sum, start).times(shrunk);
            for key in 0..block.keys {
                let probability = exp(L::of(scores, key * QUERIES + start).minus(most));
                probability.write(scores, key * QUERIES + start);
                sum = sum.plus(probability);
            }
            most.write(&mut self.most, start);
            sum.write(&mut self.sum, start);
            shrunk.write(&mut shrink, start);
        }
        let stride = self.output.stride;
        for query in 0..self.output.numbers.len() / stride {
            let shrink = shrink[query];
            if shrink.to_bits() == 1.0_f32.to_bits() {
                continue;
            }
            let row = &mut self.output.numbers[query * stride..(query + 1) * stride];
            for start in (0..stride).step_by(L::COUNT) {
                L::of(row, start).times(L::splat(shrink)).write(row, start);
            }
        }
    }

    /// Writes the results of the queries from `first` of the part on.
    #[inline(always)]
    fn write<T: Element>(&mut self, output: &Output<'_, T>, first: usize, log_sums: &mut [f32]) {
        let stride = self.output.stride;
        for query in 0..log_sums.len() {
            let row = &mut self.output.numbers[query * stride..(query + 1) * stride];
            output.write(first + query, row, 1.0 / self.sum[query]);
            log_sums[query] = self.most[query] + self.sum[query].ln();
        }
    }
}
