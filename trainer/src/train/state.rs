//! Where a run stands between two steps: what a checkpoint saves of it, and what follows from that.

use finetune_numerics::optimizer::Optimizer;

use crate::checkpoint::{self, Best, Identity};
use crate::failure::Failure;
use crate::metrics_log::{MetricsLog, StepReport};
use crate::run::Run;
use crate::run::plan::Plan;
use crate::run::trainee::Trainee;

use super::early_stopping::EarlyStopping;
use super::spikes::Spikes;

/// A run after a complete step, or before its first one.
pub(super) struct State<'run> {
    pub trainee: &'run mut Trainee,
    /// Its state, and how many steps are done.
    pub optimizer: Optimizer,
    /// All steps up to here.
    pub metrics: MetricsLog,
    /// The last step, where its validation is still to be done; `metrics` does not have it yet.
    pub unvalidated: Option<StepReport>,
    /// With early stopping: the best weights so far.
    pub best: Option<Best>,
    /// Follows from `metrics`.
    pub early_stopping: Option<EarlyStopping>,
    /// Follows from `metrics` and `unvalidated`.
    pub spikes: Spikes,
}

impl<'run> State<'run> {
    /// The state that the newest checkpoint of the run has, or else that of its start.
    pub(super) async fn resume(
        run: &Run<'_>,
        plan: &Plan,
        identity: &Identity,
        trainee: &'run mut Trainee,
    ) -> Result<Self, Failure> {
        let mut optimizer = Optimizer::new(plan.optimizer, trainee.parameters(), plan.weight_decay);
        let (mut metrics, mut unvalidated, mut best) = (MetricsLog::default(), None, None);
        if let Some(checkpoint) = checkpoint::newest(run.place, identity).await? {
            checkpoint.restore(trainee.parameters_mut(), &mut optimizer)?;
            metrics = checkpoint.metrics;
            unvalidated = checkpoint.unvalidated;
            best = checkpoint.best;
            tracing::info!("resumed after step {}", optimizer.steps());
        }
        let early_stopping = run.job.spec.training.early_stopping.as_ref();
        let early_stopping =
            early_stopping.map(|settings| EarlyStopping::new(settings, metrics.steps()));
        let mut spikes = Spikes::new(metrics.steps());
        if let Some(report) = &unvalidated {
            spikes.check(report.loss);
        }
        Ok(Self {
            trainee,
            optimizer,
            metrics,
            unvalidated,
            best,
            early_stopping,
            spikes,
        })
    }

    /// Steps done.
    pub(super) fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// Whether no step is left: all were made, or the validation loss no longer falls.
    pub(super) fn is_done(&self, plan: &Plan) -> bool {
        let early_stopping = self.early_stopping.as_ref();
        self.steps() == plan.total_steps || early_stopping.is_some_and(EarlyStopping::is_exhausted)
    }

    /// Takes in the validation loss after the last step. Where early stopping finds it the lowest so far, keeps the weights and
    /// says so.
    pub(super) fn keep_if_best(&mut self, validation_loss: f64) -> Result<bool, Failure> {
        let step = self.steps();
        let Some(early_stopping) = &mut self.early_stopping else {
            return Ok(false);
        };
        let is_best = early_stopping.validated(step, validation_loss);
        if is_best {
            let values = self.trainee.parameters().values()?.to_vec();
            self.best = Some(Best { step, values });
        }
        Ok(is_best)
    }

    /// Puts the best weights back where they are not the last ones.
    pub(super) fn return_to_best(&mut self) -> Result<(), Failure> {
        let last = self.steps();
        if let Some(best) = self.best.take().filter(|best| best.step != last) {
            tracing::info!(
                "the weights of step {} are published, which had the lowest validation loss",
                best.step
            );
            let values = self.trainee.parameters_mut().values_mut()?;
            values.copy_from_slice(&best.values);
        }
        Ok(())
    }
}
