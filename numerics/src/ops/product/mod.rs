//! Sums of products of whole matrices, of which the right ones are held in any form: result = Σ left·right.
//!
//! A task computes some columns of some rows: it lays out the panel of each right matrix that it needs, multiplies the rows by it
//! and adds up in fp32, and finishes the sums once all are there: factor, bias, rounding. Each number is summed by one thread, over
//! the terms in their order and over the inner dimension in its order. So a result depends neither on the number of threads nor on
//! how it was cut into tasks.

pub(crate) mod matmul;
pub(crate) mod panel;
pub(crate) mod rows;
mod task;
mod terms;
#[cfg(test)]
mod tests;
pub(crate) mod widening_product;

use self::task::Task;
pub(crate) use self::terms::{Out, OutNumbers, Product, Term, TermLeft};
use super::cpu::lanes;
use super::cpu::threads;

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

/// Rows that are summed and finished at a time.
const ROWS_AT_A_TIME: usize = 48;

/// The same where a kernel multiplies bfloat16.
const KERNEL_ROWS_AT_A_TIME: usize = 64;

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

impl Product<'_> {
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
