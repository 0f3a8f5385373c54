//! What the forward of one head's queries of one document reads and writes.

use super::{AttentionSettings, Part};
use crate::ops::cpu::memory::{Element, Planes, Shared};

/// The task.
pub(super) struct Forward<'a, T> {
    pub(super) part: Part,
    pub(super) settings: AttentionSettings,
    /// (B, heads, T, D).
    pub(super) queries: Planes<'a, T>,
    /// (B, key heads, S, D).
    pub(super) keys: Planes<'a, T>,
    pub(super) values: Planes<'a, T>,
    pub(super) output: Output<'a, T>,
    /// One of each query.
    pub(super) log_sums: &'a mut [f32],
}

/// Where the results of a part go: rows of D numbers within those of all heads (B·T, heads·D).
pub(super) struct Output<'a, T> {
    pub(super) numbers: Shared<'a, T>,
    /// Where the part's first row begins.
    pub(super) first: usize,
    /// Numbers from one row to the next.
    pub(super) stride: usize,
    /// D.
    pub(super) width: usize,
}

impl<T: Element> Output<'_, T> {
    /// Writes the row of a query of the part, times `factor`; the numbers are changed by it.
    #[inline(always)]
    pub(super) fn write(&self, query: usize, numbers: &mut [f32], factor: f32) {
        let numbers = &mut numbers[..self.width];
        for index in 0..numbers.len() {
            numbers[index] *= factor;
        }
        let start = self.first + query * self.stride;
        // SAFETY: no other part has these queries of this head, and nobody reads results before all are there.
        #[expect(unsafe_code, reason = "threads write to places between each other's")]
        unsafe {
            self.numbers.write(start, 1, numbers, false);
        }
    }
}
