//! Which rows each optimiser step takes. A pure function of seed and step, so that a resumed run needs no saved position.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The order of rows over a whole run.
#[derive(Clone, Debug)]
pub struct Batches {
    rows: usize,
    batch_size: usize,
    seed: u64,
    shuffle: bool,
    /// The order of the epoch that was asked for last.
    order: Option<(u64, Vec<usize>)>,
}

impl Batches {
    /// Batches of `batch_size` out of `rows` rows, both at least 1. The last batch of an epoch is kept, however small.
    pub fn new(rows: usize, batch_size: usize, seed: u64, shuffle: bool) -> Self {
        Self {
            rows: rows.max(1),
            batch_size: batch_size.max(1),
            seed,
            shuffle,
            order: None,
        }
    }

    /// Optimiser steps of one pass over the data.
    pub fn steps_per_epoch(&self) -> u64 {
        self.rows.div_ceil(self.batch_size) as u64
    }

    /// Optimiser steps of the run: `max_steps`, or whole epochs, three where neither is given.
    pub fn total_steps(&self, epochs: Option<u64>, max_steps: Option<u64>) -> u64 {
        max_steps.unwrap_or_else(|| epochs.unwrap_or(3) * self.steps_per_epoch())
    }

    /// The epoch, from 0, that step `step`, from 0, belongs to.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch()
    }

    /// Epochs done after `steps` steps, with a fraction. The last batch of an epoch counts its own rows.
    pub fn epochs_after(&self, steps: u64) -> f64 {
        let within = (steps % self.steps_per_epoch()) as usize * self.batch_size;
        self.epoch(steps) as f64 + within as f64 / self.rows as f64
    }

    /// The rows of step `step`, from 0.
    pub fn rows_of_step(&mut self, step: u64) -> &[usize] {
        let epoch = self.epoch(step);
        let start = (step % self.steps_per_epoch()) as usize * self.batch_size;
        let end = (start + self.batch_size).min(self.rows);
        let order = match self.order.take() {
            Some((of, order)) if of == epoch => order,
            _ => self.order_of_epoch(epoch),
        };
        &self.order.insert((epoch, order)).1[start..end]
    }

    /// Fisher and Yates' shuffle, written out: a library's may change from version to version, and with it every run.
    fn order_of_epoch(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows).collect();
        if !self.shuffle {
            return order;
        }
        let mut random = ChaCha20Rng::seed_from_u64(self.seed);
        random.set_stream(epoch);
        for last in (1..self.rows).rev() {
            let other = below(&mut random, last as u64 + 1) as usize;
            order.swap(last, other);
        }
        order
    }
}

/// A number below `bound`, each equally likely.
fn below(random: &mut impl RngCore, bound: u64) -> u64 {
    // Values past the last whole multiple of `bound` would favour small numbers.
    let usable = u64::MAX - u64::MAX % bound;
    loop {
        let value = random.next_u64();
        if value < usable {
            return value % bound;
        }
    }
}

/// How much of a step is computed at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MicroBatchSize {
    /// At most so many rows.
    Rows(usize),
    /// At most so many tokens, but one row at least. Where rows are padded to the longest of their pass, padding counts.
    Tokens {
        /// The most.
        most: usize,
        /// Whether rows are padded.
        padded: bool,
    },
}

impl MicroBatchSize {
    /// Whether a pass of so many rows has no room for the next one, of `next` tokens, where the longest has `longest` tokens and all
    /// have `tokens`.
    const fn is_full(self, rows: usize, tokens: usize, longest: usize, next: usize) -> bool {
        match self {
            Self::Rows(most) => rows >= most,
            Self::Tokens {
                most,
                padded: false,
            } => tokens + next > most,
            Self::Tokens { most, padded: true } => (rows + 1) * longest > most,
        }
    }
}

/// Splits the rows of a step, each a list of documents, into passes; `tokens_of` says how many tokens a document has. Rows of like
/// length go together, which saves padding; the gradient of the step is the same.
pub fn micro_batches(
    rows: &[Vec<usize>],
    tokens_of: impl Fn(usize) -> usize,
    size: MicroBatchSize,
) -> Vec<Vec<Vec<usize>>> {
    let length =
        |documents: &[usize]| -> usize { documents.iter().map(|row| tokens_of(*row)).sum() };
    let mut sorted = rows.to_vec();
    sorted.sort_by_key(|documents| (std::cmp::Reverse(length(documents)), documents[0]));
    let mut passes: Vec<Vec<Vec<usize>>> = Vec::new();
    let (mut tokens, mut longest) = (0, 0);
    for documents in sorted {
        let next = length(&documents);
        match passes.last_mut() {
            Some(pass) if !size.is_full(pass.len(), tokens, longest, next) => {
                pass.push(documents);
                tokens += next;
            }
            _ => {
                passes.push(vec![documents]);
                (tokens, longest) = (next, next);
            }
        }
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(batches: &mut Batches, steps: std::ops::Range<u64>) -> Vec<Vec<usize>> {
        steps
            .map(|step| batches.rows_of_step(step).to_vec())
            .collect()
    }

    #[test]
    fn every_epoch_takes_each_row_once_in_an_order_of_its_own() {
        let mut batches = Batches::new(10, 4, 42, true);
        assert_eq!(batches.steps_per_epoch(), 3);
        let first = rows(&mut batches, 0..3).concat();
        let second = rows(&mut batches, 3..6).concat();
        for epoch in [&first, &second] {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
        assert_eq!(batches.rows_of_step(2).len(), 2, "the last batch is kept");
    }

    #[test]
    fn a_step_has_the_same_rows_however_one_comes_to_it() {
        let forward = rows(&mut Batches::new(100, 8, 7, true), 0..40);
        for step in [39, 0, 13, 12, 26] {
            let mut batches = Batches::new(100, 8, 7, true);
            assert_eq!(batches.rows_of_step(step), forward[step as usize]);
        }
    }

    #[test]
    fn seeds_give_different_orders_and_no_shuffle_keeps_the_files_order() {
        let one = rows(&mut Batches::new(50, 50, 1, true), 0..1);
        let two = rows(&mut Batches::new(50, 50, 2, true), 0..1);
        assert_ne!(one, two);
        let kept = rows(&mut Batches::new(5, 2, 1, false), 0..4);
        assert_eq!(kept, [vec![0, 1], vec![2, 3], vec![4], vec![0, 1]]);
    }

    #[test]
    fn the_shuffle_is_pinned_so_that_an_upgrade_cannot_change_a_run() {
        let mut batches = Batches::new(8, 8, 42, true);
        assert_eq!(batches.rows_of_step(0), PINNED);
    }

    /// What the first version gave.
    const PINNED: [usize; 8] = [7, 3, 6, 4, 1, 5, 2, 0];

    #[test]
    fn steps_and_epochs_are_counted_with_the_short_last_batch() {
        let batches = Batches::new(10, 4, 0, true);
        assert_eq!(batches.total_steps(None, None), 9);
        assert_eq!(batches.total_steps(Some(2), None), 6);
        assert_eq!(batches.total_steps(None, Some(7)), 7);
        assert!((batches.epochs_after(1) - 0.4).abs() < 1e-12);
        assert!((batches.epochs_after(3) - 1.0).abs() < 1e-12);
    }

    const LENGTHS: [usize; 4] = [3, 9, 4, 8];

    #[test]
    fn rows_of_like_length_share_a_pass() {
        let rows = [vec![0], vec![1], vec![2], vec![3]];
        let passes = |rows: &[Vec<usize>], most| {
            micro_batches(rows, |row| LENGTHS[row], MicroBatchSize::Rows(most))
        };
        assert_eq!(passes(&rows, 2), [[[1], [3]], [[2], [0]]]);
        assert_eq!(
            passes(&[vec![1], vec![0, 2, 3]], 1),
            [vec![vec![0, 2, 3]], vec![vec![1]]]
        );
    }

    #[test]
    fn a_pass_takes_as_many_rows_as_its_tokens_have_room_for_and_one_at_least() {
        let rows = [vec![0], vec![1], vec![2], vec![3]];
        let passes = |most, padded| {
            let size = MicroBatchSize::Tokens { most, padded };
            let passes = micro_batches(&rows, |row| LENGTHS[row], size);
            passes.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(passes(17, false), [2, 2]);
        assert_eq!(passes(17, true), [1, 2, 1]);
        assert_eq!(passes(24, false), [4]);
        assert_eq!(passes(1, false), [1, 1, 1, 1]);
    }
}
