//! Decides when a checkpoint is due, makes it, and decides how long a run may go on without one.
//!
//! A store that is out of reach, full, or refuses a write or a delete is no reason to end a run that can compute: it is
//! tried again when the next checkpoint is due.

use std::time::{Duration, Instant};

use finetune_crds::contract::{ExitCode, OutcomeReason};

use crate::attempt::Attempt;
use crate::checkpoint::{self, Conduct, Identity, RunState};
use crate::failure::Failure;
use crate::run::Run;
use crate::run::plan::CheckpointPlan;

use super::publish::write_metrics;
use super::state::State;

/// So many checkpoints in a row must have failed before a run is given up.
const FAILURES: u32 = 3;
/// And so long must the last one that was made lie back: work that may be lost is then worth more than the hope.
const PATIENCE: Duration = Duration::from_mins(30);

/// When checkpoints are due. Pure.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    every_steps: u64,
    every: Duration,
    /// The step of the newest checkpoint; 0 where there is none.
    saved_step: u64,
    saved_at: Instant,
    tried_at: Instant,
    /// Since then.
    failures: u32,
}

impl Schedule {
    fn is_due(&self, step: u64, now: Instant) -> bool {
        step.is_multiple_of(self.every_steps) || now - self.tried_at >= self.every
    }

    fn saved(&mut self, step: u64, now: Instant) {
        *self = Self {
            saved_step: step,
            saved_at: now,
            tried_at: now,
            failures: 0,
            ..*self
        };
    }

    /// Takes in that a checkpoint failed. Returns whether the run is to be given up.
    fn failed(&mut self, now: Instant) -> bool {
        self.tried_at = now;
        self.failures += 1;
        self.failures >= FAILURES && now - self.saved_at >= PATIENCE
    }
}

/// Makes a run's checkpoints.
pub(super) struct Saver<'run> {
    run: &'run Run<'run>,
    attempt: &'run Attempt,
    identity: &'run Identity,
    conduct: Conduct,
    schedule: Schedule,
    /// Checkpoints that are kept.
    keep: usize,
    /// How often in a row old checkpoints could not be deleted.
    undeleted: u32,
}

impl<'run> Saver<'run> {
    /// Of a run that has a checkpoint of `step`, or starts at step 0.
    pub(super) fn new(
        run: &'run Run<'run>,
        attempt: &'run Attempt,
        identity: &'run Identity,
        conduct: Conduct,
        plan: CheckpointPlan,
        step: u64,
    ) -> Self {
        let now = Instant::now();
        Self {
            run,
            attempt,
            identity,
            conduct,
            schedule: Schedule {
                every_steps: plan.every_steps,
                every: plan.every,
                saved_step: step,
                saved_at: now,
                tried_at: now,
                failures: 0,
            },
            keep: plan.keep,
            undeleted: 0,
        }
    }

    /// Saves the state where a checkpoint is due or `is_last` says so. A failure is a warning, unless nothing could be saved
    /// for long or another attempt has claimed the job.
    pub(super) async fn save_if_due(
        &mut self,
        state: &State<'_>,
        is_last: bool,
    ) -> Result<(), Failure> {
        let step = state.steps();
        if !is_last && !self.schedule.is_due(step, Instant::now()) {
            return Ok(());
        }
        let Err(failure) = self.save(state).await else {
            return Ok(());
        };
        if failure.reason == OutcomeReason::Superseded {
            return Err(failure);
        }
        let given_up = self.schedule.failed(Instant::now());
        let saved_step = self.schedule.saved_step;
        if given_up && !is_last {
            return Err(Failure::new(
                failure.reason,
                format!(
                    "the last {} checkpoints failed, and the newest one is of step {saved_step}: {failure}",
                    self.schedule.failures
                ),
            ));
        }
        tracing::warn!(
            "failed to save the state after step {step}: {failure}; the run goes on, and would be lost from step {saved_step} on"
        );
        Ok(())
    }

    /// Saves the state of a run that was told to stop, and says that it was.
    pub(super) async fn stop(&mut self, state: &State<'_>) -> Failure {
        let step = state.steps();
        match self.save(state).await {
            Ok(()) => Failure::new(
                OutcomeReason::Preempted,
                format!("told to stop after step {step}; run it again to go on from there"),
            ),
            Err(failure) => Failure::new(
                // Another try may save what this one could not.
                match ExitCode::FINAL.contains(&failure.exit_code()) {
                    true => OutcomeReason::Unavailable,
                    false => failure.reason,
                },
                format!(
                    "told to stop after step {step}, whose state could not be saved: {failure}; run it again to go on from step {}",
                    self.schedule.saved_step
                ),
            ),
        }
    }

    /// Saves the state, unless that of this step is saved already. Then deletes the oldest checkpoints.
    async fn save(&mut self, state: &State<'_>) -> Result<(), Failure> {
        let Run {
            place,
            reporter,
            now,
            ..
        } = *self.run;
        let step = state.steps();
        if step == self.schedule.saved_step {
            return Ok(());
        }
        let saved = RunState {
            parameters: state.trainee.parameters(),
            optimizer: &state.optimizer,
            metrics: &state.metrics,
            best: state.best.as_ref(),
            unvalidated: state.unvalidated.as_ref(),
            conduct: self.conduct,
        };
        checkpoint::write(place, self.attempt, self.identity, &saved)
            .await
            .map_err(|failure| place.with_cure(failure))?;
        self.schedule.saved(step, Instant::now());
        reporter.checkpoint(step, now());
        if let Err(failure) = write_metrics(place, &state.metrics).await {
            let failure = place.with_cure(failure);
            tracing::warn!("failed to write the metrics up to step {step}: {failure}");
        }
        match checkpoint::delete_old(place, self.attempt, self.keep).await {
            Ok(()) => self.undeleted = 0,
            Err(failure) => {
                self.undeleted += 1;
                let failure = place.with_cure(failure);
                // Once in a while: at the 1st, 2nd, 4th, 8th … time.
                if self.undeleted.is_power_of_two() {
                    tracing::warn!(
                        "failed to delete old checkpoints ({} times so far): {failure}; they stay in {} and take room, the run goes on",
                        self.undeleted,
                        place.passing.uri()
                    );
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_mins(10);

    fn schedule(now: Instant) -> Schedule {
        Schedule {
            every_steps: 100,
            every: EVERY,
            saved_step: 0,
            saved_at: now,
            tried_at: now,
            failures: 0,
        }
    }

    #[test]
    fn a_failed_checkpoint_is_tried_again_when_the_next_one_is_due() {
        let start = Instant::now();
        let mut schedule = schedule(start);
        assert!(schedule.is_due(100, start));
        assert!(schedule.is_due(101, start + EVERY));
        assert!(!schedule.failed(start + EVERY));
        assert!(!schedule.is_due(102, start + EVERY));
        assert!(schedule.is_due(103, start + 2 * EVERY));
        assert!(schedule.is_due(200, start + EVERY));
    }

    #[test]
    fn a_run_is_given_up_after_several_failures_and_a_long_time_without_a_checkpoint() {
        let start = Instant::now();
        let mut schedule = schedule(start);
        for minutes in 1..10 {
            assert!(!schedule.failed(start + Duration::from_mins(minutes)));
        }
        schedule.saved(900, start + Duration::from_mins(20));
        assert_eq!(schedule.saved_step, 900);
        assert!(!schedule.failed(start + Duration::from_mins(55)));
        assert!(!schedule.failed(start + Duration::from_mins(65)));
        assert!(schedule.failed(start + Duration::from_mins(75)));
    }
}
