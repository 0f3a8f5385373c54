//! Clipping by the norm of all gradients together, as `torch.nn.utils.clip_grad_norm_` does.

use super::Parameters;
use crate::ops::Result;

/// Scales the gradients down to a Euclidean norm of at most `max_norm` (0 clips nothing) and returns the norm that they had.
/// A norm that is not a number is returned as it is, the gradients untouched: the caller ends the run.
pub fn clip_gradient_norm(parameters: &mut Parameters, max_norm: f64) -> Result<f64> {
    let (_, gradients) = parameters.both_mut()?;
    let norm = euclidean_norm(gradients);
    let factor = max_norm / (norm + 1e-6);
    if max_norm > 0.0 && factor < 1.0 {
        let factor = factor as f32;
        for gradient in gradients {
            *gradient *= factor;
        }
    }
    Ok(norm)
}

/// Summed in fp64 in a fixed order, so that it does not depend on the number of threads.
fn euclidean_norm(gradients: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 8];
    let chunks = gradients.chunks_exact(sums.len());
    let rest: f64 = chunks
        .remainder()
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    (sums.iter().sum::<f64>() + rest).sqrt()
}
