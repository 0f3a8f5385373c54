//! The forward of a few queries over many keys, as an answer's next token asks for: keys and values are read where they lie, and
//! nothing is laid out anew.

use super::task::Forward;
use crate::ops::cpu::kernel::exp;
use crate::ops::cpu::memory::Element;

/// Queries below which this is faster than blocks.
pub(super) const FEW: usize = 8;

/// The forward of the task's queries, one by one.
#[inline(always)]
pub(super) fn forward<T: Element>(task: Forward<'_, T>) {
    let (part, settings) = (task.part, task.settings);
    let width = task.output.width;
    let window = settings.window.map_or(usize::MAX, |window| window as usize);
    let mut query = vec![0.0; width];
    let mut sums = vec![0.0; width];
    let mut scores = vec![0.0; part.keys];
    for (at, log_sum) in task.log_sums.iter_mut().enumerate() {
        let row = task.queries.row(part.batch, part.head, part.first + at);
        for (wide, number) in query.iter_mut().zip(row) {
            *wide = number.widen();
        }
        let end = part.keys - part.queries + at + 1;
        let seen = end.saturating_sub(window)..end;
        let scores = &mut scores[seen.clone()];
        for (score, key) in scores.iter_mut().zip(seen.clone()) {
            let key = task.keys.row(part.batch, part.key_head, part.first + key);
            let product = dot(&query, key) * settings.scale as f32;
            *score = match settings.soft_cap {
                None => product,
                Some(cap) => (product / cap as f32).tanh() * cap as f32,
            };
        }
        let most = scores.iter().copied().fold(f32::MIN, f32::max);
        for score in scores.iter_mut() {
            *score = exp(*score - most);
        }
        let sum = sum_of(scores);
        sums.fill(0.0);
        let mask = part
            .dropout
            .map(|(dropout, first_row)| dropout.of_row(first_row + at));
        for (probability, key) in scores.iter().zip(seen) {
            let probability = probability * mask.map_or(1.0, |mask| mask.factor(key as u32));
            let value = task.values.row(part.batch, part.key_head, part.first + key);
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum += probability * value.widen();
            }
        }
        task.output.write(at, &mut sums, 1.0 / sum);
        *log_sum = most + sum.ln();
    }
}

/// In 16 partial sums, so that the error does not grow with the number of keys.
#[inline(always)]
fn sum_of(numbers: &[f32]) -> f32 {
    let (chunks, rest) = numbers.as_chunks::<16>();
    let mut sums = [0.0_f32; 16];
    for chunk in chunks {
        for (sum, number) in sums.iter_mut().zip(chunk) {
            *sum += number;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// left·right, in 16 partial sums: one chain of additions would not vectorise.
#[inline(always)]
fn dot<T: Element>(left: &[f32], right: &[T]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane].widen();
        }
    }
    let rest = left_rest.iter().zip(right_rest);
    let rest: f32 = rest.map(|(left, right)| left * right.widen()).sum();
    sums.iter().sum::<f32>() + rest
}
