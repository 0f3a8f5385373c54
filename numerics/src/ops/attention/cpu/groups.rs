//! The sums over the query heads of a group: each head's task leaves its own part of the gradients of keys and values.

use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::cpu::memory::Element;

/// The parts (B, heads, T, D) of all query heads.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) numbers: &'a [f32],
    /// Query heads of a key head.
    pub(super) groups: usize,
    /// Key heads.
    pub(super) key_heads: usize,
    /// T.
    pub(super) length: usize,
    /// D.
    pub(super) width: usize,
}

/// How the sums lie.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// (B, key heads, T, D).
    ByHead,
    /// (B·T, key heads·D).
    ByToken,
}

impl Parts<'_> {
    /// Writes the sums, each over its heads in their order.
    pub(super) fn sum<T: Element>(self, to: &mut [T], order: Order) {
        let rows = kernel::rows_per_part(self.width);
        let tasks = to.chunks_mut(rows * self.width).enumerate();
        let tasks = tasks.map(|(part, to)| Sum {
            parts: self,
            order,
            first: part * rows,
            to,
        });
        kernel::run_all(tasks.collect());
    }

    /// Where the row of the group's first head begins that belongs to row `row` of the sums.
    #[inline(always)]
    fn start(&self, row: usize, order: Order) -> usize {
        let (batch, head, token) = match order {
            Order::ByHead => {
                let plane = row / self.length;
                (
                    plane / self.key_heads,
                    plane % self.key_heads,
                    row % self.length,
                )
            }
            Order::ByToken => {
                let token = row / self.key_heads;
                (
                    token / self.length,
                    row % self.key_heads,
                    token % self.length,
                )
            }
        };
        let first_head = (batch * self.key_heads + head) * self.groups;
        (first_head * self.length + token) * self.width
    }
}

struct Sum<'a, T> {
    parts: Parts<'a>,
    order: Order,
    first: usize,
    to: &'a mut [T],
}

impl<T: Element> Kernel for Sum<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Parts { width, length, .. } = self.parts;
        for row in 0..self.to.len() / width {
            let start = self.parts.start(self.first + row, self.order);
            let to = &mut self.to[row * width..(row + 1) * width];
            for index in 0..width {
                let mut sum = 0.0;
                for group in 0..self.parts.groups {
                    sum += self.parts.numbers[start + group * length * width + index];
                }
                to[index] = T::round(sum);
            }
        }
    }
}
