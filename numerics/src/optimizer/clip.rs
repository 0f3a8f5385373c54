//! Clipping by the norm of all gradients together, as `torch.nn.utils.clip_grad_norm_` does.

use super::Parameters;
use crate::ops::Result;
use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::profile::{Operation, timed};

/// Scales the gradients down to a Euclidean norm of at most `max_norm` (0 clips nothing) and returns the norm that they had.
/// A norm that is not a number is returned as it is, the gradients untouched: the caller ends the run.
pub fn clip_gradient_norm(parameters: &mut Parameters, max_norm: f64) -> Result<f64> {
    timed(Operation::Optimizer, || clip(parameters, max_norm))
}

fn clip(parameters: &mut Parameters, max_norm: f64) -> Result<f64> {
    let (_, gradients) = parameters.both_mut()?;
    let norm = euclidean_norm(gradients);
    let factor = max_norm / (norm + 1e-6);
    if max_norm > 0.0 && factor < 1.0 {
        let parts = gradients.chunks_mut(kernel::rows_per_part(1));
        let parts = parts.map(|numbers| Scaled {
            numbers,
            factor: factor as f32,
        });
        kernel::run_all(parts.collect());
    }
    Ok(norm)
}

/// Summed in fp64 in a fixed order, so that it does not depend on the number of threads.
fn euclidean_norm(gradients: &[f32]) -> f64 {
    let length = kernel::rows_per_part(1);
    let mut sums = vec![0.0; gradients.len().div_ceil(length)];
    let parts = gradients.chunks(length).zip(&mut sums);
    let parts = parts.map(|(numbers, sum)| Squares { numbers, sum });
    kernel::run_all(parts.collect());
    sums.iter().sum::<f64>().sqrt()
}

/// The sum of the squares of some numbers.
struct Squares<'a> {
    numbers: &'a [f32],
    sum: &'a mut f64,
}

impl Kernel for Squares<'_> {
    #[inline(always)]
    fn run(self) {
        /// One chain of additions would not vectorise.
        const LANES: usize = 16;
        let mut sums = [0.0_f64; LANES];
        let (chunks, rest) = self.numbers.as_chunks::<LANES>();
        for chunk in chunks {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        *self.sum = sums.iter().sum::<f64>() + rest;
    }
}

/// Some numbers times a factor.
struct Scaled<'a> {
    numbers: &'a mut [f32],
    factor: f32,
}

impl Kernel for Scaled<'_> {
    #[inline(always)]
    fn run(self) {
        for number in self.numbers {
            *number *= self.factor;
        }
    }
}
