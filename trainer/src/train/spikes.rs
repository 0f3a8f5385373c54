//! Losses that stand out: a sign of a learning rate too high or of rows that are not like the others.
//!
//! A pure function of the losses, so that a resumed run sees the same ones.

use std::collections::VecDeque;

use crate::metrics_log::StepReport;

/// Losses that are looked back at.
const WINDOW: usize = 32;
/// The fewest losses that say what is usual.
const LEAST: usize = 16;
/// How far above the median a loss stands out, in standard deviations.
const DEVIATIONS: f64 = 6.0;
/// From the median absolute deviation of normal numbers to their standard deviation.
const NORMAL: f64 = 1.4826;
/// The least standard deviation that is taken for usual, as a share of the median: a smooth curve may bend.
const LEAST_DEVIATION: f64 = 0.05;

/// The last losses.
#[derive(Clone, Debug, Default)]
pub(super) struct Spikes {
    window: VecDeque<f64>,
}

impl Spikes {
    /// After these steps.
    pub(super) fn new(steps: &[StepReport]) -> Self {
        let mut spikes = Self::default();
        for report in &steps[steps.len().saturating_sub(WINDOW)..] {
            spikes.keep(report.loss);
        }
        spikes
    }

    /// Takes the next loss in. Where it stands out, returns the usual loss.
    pub(super) fn check(&mut self, loss: f64) -> Option<f64> {
        let usual = (self.window.len() >= LEAST).then(|| median(self.window.iter().copied()));
        let spike = usual.filter(|usual| {
            let deviation = median(self.window.iter().map(|loss| (loss - usual).abs()));
            loss - usual > DEVIATIONS * (NORMAL * deviation).max(LEAST_DEVIATION * usual)
        });
        // A spike counts too: where the loss stays up there, that becomes the usual.
        self.keep(loss);
        spike
    }

    fn keep(&mut self, loss: f64) {
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(loss);
    }
}

/// The middle one; of an even number the upper of the two.
fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    let middle = numbers.len() / 2;
    *numbers.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loss that falls with some noise.
    fn usual(step: u32) -> f64 {
        2.0 * 0.99_f64.powi(step as i32) + 0.1 * f64::from(step * 7 % 5)
    }

    #[test]
    fn a_jump_stands_out_and_noise_does_not() {
        let mut spikes = Spikes::default();
        for step in 0..100 {
            assert_eq!(spikes.check(usual(step)), None, "step {step}");
        }
        let found = spikes.check(5.0).unwrap();
        assert!((0.5..1.5).contains(&found), "{found}");
        assert_eq!(spikes.check(usual(101)), None);
    }

    #[test]
    fn a_loss_that_stays_up_becomes_usual() {
        let mut spikes = Spikes::default();
        for step in 0..40 {
            spikes.check(usual(step));
        }
        let counted = (0..40).filter(|_| spikes.check(6.0).is_some()).count();
        assert!((10..=20).contains(&counted), "{counted}");
    }

    #[test]
    fn the_first_losses_never_stand_out() {
        let mut spikes = Spikes::default();
        for loss in [9.0, 1.0, 8.0, 1.0, 20.0] {
            assert_eq!(spikes.check(loss), None);
        }
    }

    #[test]
    fn a_resumed_run_sees_the_same_spikes() {
        let steps: Vec<StepReport> = (0..60)
            .map(|step| StepReport {
                loss: usual(step),
                ..StepReport::default()
            })
            .collect();
        let mut whole = Spikes::default();
        for report in &steps {
            whole.check(report.loss);
        }
        assert_eq!(Spikes::new(&steps).check(4.0), whole.check(4.0));
    }
}
