//! AdamW (Loshchilov and Hutter, 2019) over the flat buffers, in the order of operations of torch.optim.AdamW.

use super::Parameters;
use crate::ops::{Error, Result};

/// The optimiser's constants and its state. The state is plain data, so that a checkpoint can save and restore it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// The decay of the first moment.
    pub beta1: f64,
    /// The decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled: parameters shrink by learning rate x this, each step.
    pub weight_decay: f64,
    /// The steps taken.
    pub steps: u64,
    /// The mean of the gradients, flat as the parameters.
    pub first_moment: Vec<f32>,
    /// The mean of their squares.
    pub second_moment: Vec<f32>,
}

impl AdamW {
    /// A fresh optimiser with the usual betas 0.9 and 0.999 and epsilon 1e-8, for `count` parameters.
    pub fn new(count: usize, weight_decay: f64) -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay,
            steps: 0,
            first_moment: vec![0.0; count],
            second_moment: vec![0.0; count],
        }
    }

    /// Moves the parameters by one step along their gradients.
    pub fn step(&mut self, parameters: &mut Parameters, learning_rate: f64) -> Result<()> {
        if self.first_moment.len() != parameters.count()
            || self.second_moment.len() != parameters.count()
        {
            return Err(Error::Input(format!(
                "the optimiser's state has {} and {} numbers, expected {}, one for each parameter: it belongs to another run",
                self.first_moment.len(),
                self.second_moment.len(),
                parameters.count()
            )));
        }
        self.steps += 1;
        let correction = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        let step_size = (learning_rate / correction(self.beta1)) as f32;
        let second_root = correction(self.beta2).sqrt() as f32;
        let (beta1, beta2, epsilon) = (self.beta1, self.beta2, self.epsilon as f32);
        let keep = (1.0 - learning_rate * self.weight_decay) as f32;
        let (gain1, beta2, gain2) = ((1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32);

        let runs = runs_by_decay(parameters);
        let (values, gradients) = parameters.both_mut()?;
        for (range, decay) in runs {
            let keep = if decay { keep } else { 1.0 };
            let moments = self.first_moment[range.clone()]
                .iter_mut()
                .zip(&mut self.second_moment[range.clone()]);
            let pairs = values[range.clone()].iter_mut().zip(&gradients[range]);
            for ((value, gradient), (first, second)) in pairs.zip(moments) {
                *value *= keep;
                *first += gain1 * (gradient - *first);
                *second = *second * beta2 + gain2 * gradient * gradient;
                let root = second.sqrt() / second_root + epsilon;
                *value -= step_size * (*first / root);
            }
        }
        Ok(())
    }
}

/// Stretches of the buffers on which decay acts, or does not, from end to end.
fn runs_by_decay(parameters: &Parameters) -> Vec<(std::ops::Range<usize>, bool)> {
    let mut runs: Vec<(std::ops::Range<usize>, bool)> = Vec::new();
    for parameter in parameters.list() {
        let end = parameter.offset + parameter.length();
        match runs.last_mut() {
            Some((range, decay)) if *decay == parameter.decay => range.end = end,
            _ => runs.push((parameter.offset..end, parameter.decay)),
        }
    }
    runs
}
