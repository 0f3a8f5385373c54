//! AdamW (Loshchilov and Hutter, 2019) over the flat buffers, in the order of operations of torch.optim.AdamW.

use super::clip::Clip;
use super::{Parameters, State, StateMut};
use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::{Error, Result};

/// AdamW's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Constants {
    /// The decay of the first moment.
    pub(super) beta1: f64,
    /// The decay of the second moment.
    pub(super) beta2: f64,
    /// Added to the root of the second moment.
    pub(super) epsilon: f64,
    /// Decoupled: parameters shrink by learning rate x this, each step.
    pub(super) weight_decay: f64,
}

impl Constants {
    /// The usual betas 0.9 and 0.999 and epsilon 1e-8.
    pub(super) const fn new(weight_decay: f64) -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay,
        }
    }

    /// The numbers of step `step`, from 1.
    pub(super) fn of_step(&self, step: u64, learning_rate: f64, clip: Clip) -> Update {
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        Update {
            step_size: (learning_rate / correction(self.beta1)) as f32,
            second_root: correction(self.beta2).sqrt() as f32,
            epsilon: self.epsilon as f32,
            keep: (1.0 - learning_rate * self.weight_decay) as f32,
            gain1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            gain2: (1.0 - self.beta2) as f32,
            clip: clip.factor,
        }
    }
}

/// The numbers of one step, in the type of the loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Update {
    step_size: f32,
    second_root: f32,
    epsilon: f32,
    keep: f32,
    gain1: f32,
    beta2: f32,
    gain2: f32,
    /// What clipping leaves of a gradient.
    clip: f32,
}

impl Update {
    /// The same for tensors on which weight decay acts, or does not.
    pub(super) const fn with_decay(mut self, decay: bool) -> Self {
        if !decay {
            self.keep = 1.0;
        }
        self
    }

    /// Moves one parameter by its gradient, which becomes 0, and its moments with it.
    #[inline(always)]
    pub(super) fn apply(
        &self,
        value: &mut f32,
        gradient: &mut f32,
        first: &mut f32,
        second: &mut f32,
    ) {
        let gradient = std::mem::take(gradient) * self.clip;
        *value *= self.keep;
        *first += self.gain1 * (gradient - *first);
        *second = *second * self.beta2 + self.gain2 * gradient * gradient;
        let root = second.sqrt() / self.second_root + self.epsilon;
        *value -= self.step_size * (*first / root);
    }
}

/// The optimiser with two fp32 numbers for each parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    constants: Constants,
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
            constants: Constants::new(weight_decay),
            steps: 0,
            first_moment: vec![0.0; count],
            second_moment: vec![0.0; count],
        }
    }

    /// As [`super::Optimizer::step`].
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        learning_rate: f64,
        max_norm: f64,
    ) -> Result<f64> {
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
        let clip = Clip::of(parameters.gradients()?, max_norm);
        if !clip.norm.is_finite() {
            return Ok(clip.norm);
        }
        self.steps += 1;
        let update = self.constants.of_step(self.steps, learning_rate, clip);
        let runs = runs_by_decay(parameters);
        let (values, gradients) = parameters.both_mut()?;
        for (range, decay) in runs {
            let update = update.with_decay(decay);
            let length = kernel::rows_per_part(1);
            let moments = self.first_moment[range.clone()]
                .chunks_mut(length)
                .zip(self.second_moment[range.clone()].chunks_mut(length));
            let parts = values[range.clone()]
                .chunks_mut(length)
                .zip(gradients[range].chunks_mut(length));
            let parts = parts
                .zip(moments)
                .map(|((values, gradients), (firsts, seconds))| Moved {
                    update,
                    values,
                    gradients,
                    firsts,
                    seconds,
                });
            kernel::run_all(parts.collect());
        }
        Ok(clip.norm)
    }

    /// What a checkpoint saves, beside the number of steps.
    pub(super) fn state(&self) -> Vec<(&'static str, State<'_>)> {
        vec![
            ("first_moment", State::Float(&self.first_moment)),
            ("second_moment", State::Float(&self.second_moment)),
        ]
    }

    /// The same, to be restored.
    pub(super) fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)> {
        vec![
            ("first_moment", StateMut::Float(&mut self.first_moment)),
            ("second_moment", StateMut::Float(&mut self.second_moment)),
        ]
    }
}

/// A stretch of parameters that is moved by one step.
struct Moved<'a> {
    update: Update,
    values: &'a mut [f32],
    gradients: &'a mut [f32],
    firsts: &'a mut [f32],
    seconds: &'a mut [f32],
}

impl Kernel for Moved<'_> {
    #[inline(always)]
    fn run(self) {
        let moments = self.firsts.iter_mut().zip(self.seconds);
        let pairs = self.values.iter_mut().zip(self.gradients);
        for ((value, gradient), (first, second)) in pairs.zip(moments) {
            self.update.apply(value, gradient, first, second);
        }
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
