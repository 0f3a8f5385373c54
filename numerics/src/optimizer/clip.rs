//! Clipping by the norm of all gradients together, as `torch.nn.utils.clip_grad_norm_` does.

use crate::ops::cpu::kernel::{self, Kernel};

/// The norm of all gradients of a step, and what each of them is multiplied by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clip {
    /// The Euclidean norm before.
    pub(super) norm: f64,
    /// 1 where the norm is not above the bound.
    pub(super) factor: f32,
}

impl Clip {
    /// To a norm of at most `max_norm`; 0 clips nothing.
    pub(super) fn of(gradients: &[f32], max_norm: f64) -> Self {
        let norm = euclidean_norm(gradients);
        let factor = max_norm / (norm + 1e-6);
        Self {
            norm,
            factor: match max_norm > 0.0 && factor < 1.0 {
                true => factor as f32,
                false => 1.0,
            },
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_scaled_down_to_the_bound_and_never_up() {
        let clip = Clip::of(&[3.0, 4.0], 1.0);
        assert!((clip.norm - 5.0).abs() < 1e-12);
        assert!((clip.factor - 0.2).abs() < 1e-6);
        for bound in [0.0, 6.0] {
            assert_eq!(
                Clip::of(&[3.0, 4.0], bound).factor.to_bits(),
                1.0_f32.to_bits()
            );
        }
        assert!(Clip::of(&[f32::NAN, 1.0], 1.0).norm.is_nan());
    }
}
