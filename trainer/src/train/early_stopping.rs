//! When to end before the last step: once the validation loss no longer falls. And which weights were the best.
//!
//! A pure function of the validation losses, so that a resumed run stands where the other one stood.

use finetune_crds::fine_tune_job::EarlyStopping as Settings;

use crate::metrics_log::StepReport;

/// Where a run stands with its validation losses.
#[derive(Clone, Debug)]
pub(super) struct EarlyStopping {
    patience: u64,
    min_improvement: f64,
    best: Option<(u64, f64)>,
    /// The loss of the last improvement.
    reference: f64,
    /// Validations since then.
    without_improvement: u64,
}

impl EarlyStopping {
    /// A run that has made these steps.
    pub(super) fn new(settings: &Settings, steps: &[StepReport]) -> Self {
        let mut early_stopping = Self {
            patience: settings.patience.max(1) as u64,
            min_improvement: settings.min_improvement,
            best: None,
            reference: f64::INFINITY,
            without_improvement: 0,
        };
        for report in steps {
            if let Some(loss) = report.validation_loss {
                early_stopping.validated(report.step, loss);
            }
        }
        early_stopping
    }

    /// Takes the validation loss after `step` in; returns whether it is the lowest so far. One that is no number is
    /// neither the lowest nor an improvement.
    pub(super) fn validated(&mut self, step: u64, loss: f64) -> bool {
        let is_best = loss.is_finite() && self.best.is_none_or(|(_, best)| loss < best);
        if is_best {
            self.best = Some((step, loss));
        }
        if loss < self.reference - self.min_improvement {
            self.reference = loss;
            self.without_improvement = 0;
        } else {
            self.without_improvement += 1;
        }
        is_best
    }

    /// Whether patience has run out.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.without_improvement >= self.patience
    }

    /// The step with the lowest loss, and that loss.
    pub(super) const fn best(&self) -> Option<(u64, f64)> {
        self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(patience: i64, min_improvement: f64, losses: &[f64]) -> EarlyStopping {
        let settings = Settings {
            patience,
            min_improvement,
        };
        let steps: Vec<StepReport> = losses
            .iter()
            .zip(1..)
            .map(|(loss, step)| StepReport {
                step,
                validation_loss: Some(*loss),
                ..StepReport::default()
            })
            .collect();
        EarlyStopping::new(&settings, &steps)
    }

    #[test]
    fn patience_runs_out_after_so_many_validations_without_improvement() {
        assert!(!after(2, 0.0, &[3.0, 2.0, 2.5]).is_exhausted());
        assert!(after(2, 0.0, &[3.0, 2.0, 2.5, 2.0]).is_exhausted());
        assert!(!after(2, 0.0, &[3.0, 2.0, 2.5, 1.9]).is_exhausted());
    }

    #[test]
    fn the_best_is_the_lowest_even_where_it_was_no_improvement() {
        let small_gain = after(1, 0.1, &[2.0, 1.95]);
        assert!(small_gain.is_exhausted());
        assert_eq!(small_gain.best(), Some((2, 1.95)));
        assert_eq!(after(9, 0.0, &[2.0, 1.5, 1.5]).best(), Some((2, 1.5)));
    }

    #[test]
    fn small_gains_add_up_to_an_improvement() {
        assert!(!after(2, 0.1, &[2.0, 1.95, 1.89, 1.85]).is_exhausted());
    }

    #[test]
    fn a_loss_that_is_no_number_is_never_the_best() {
        let stopped = after(2, 0.0, &[2.0, f64::NAN, f64::NAN]);
        assert!(stopped.is_exhausted());
        assert_eq!(stopped.best(), Some((1, 2.0)));
    }
}
