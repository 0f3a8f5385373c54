//! What the agent knows of one version, and what a failure means for it.
//!
//! A fault of the files or of the test's answer stays until what is desired changes, or, for the test, until another
//! engine process runs. Everything else is tried again, more and more rarely.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use finetune_crds::contract::Golden;
use tokio::time::Instant;

use super::engine::FinetuneEngine;
use super::plan::Known;
use super::state::GoldenState;
use super::step::{Done, Outcome, Step, StepError};
use super::store::Versions;
use super::{golden, step};

/// The longest time between two tries.
const MAX_DELAY: Duration = Duration::from_mins(1);

/// One version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Its folder in object storage.
    pub uri: String,
    /// Its digest.
    pub digest: String,
    /// The step under way.
    pub step: Option<Step>,
    /// The result of the test on the engine that runs now.
    pub golden_state: GoldenState,
    /// What is wrong with it.
    pub failure: Option<Failure>,
    /// Whether the engine's last list had it.
    pub seen_loaded: bool,
    folder: Option<String>,
    golden: Option<Arc<Golden>>,
    unload_failure: Option<Failure>,
}

/// Why a step failed, and when to try it again.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// For a person.
    pub message: String,
    /// Whether it is not tried again.
    pub permanent: bool,
    step: Step,
    tries: u32,
    retry_at: Instant,
}

/// A step that runs.
pub(crate) type Task = Pin<Box<dyn Future<Output = Result<Outcome, StepError>> + Send>>;

impl Record {
    /// A version of which nothing is here.
    pub(crate) fn new(uri: &str, digest: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            digest: digest.to_owned(),
            ..Self::default()
        }
    }

    /// What the plan may know.
    pub(crate) fn known(&self, now: Instant) -> Known {
        let waits = |failure: &Failure| failure.permanent || failure.retry_at > now;
        Known {
            folder: self.folder.clone(),
            busy: self.step.is_some(),
            held: self.failure.as_ref().is_some_and(waits),
            unload_held: self.unload_failure.as_ref().is_some_and(waits),
            golden: self.golden_state,
        }
    }

    /// Forgets what failed: someone wants another try.
    pub(crate) fn forgive(&mut self) {
        self.failure = None;
        if self.golden_state == GoldenState::Failed {
            self.golden_state = GoldenState::Untested;
        }
    }

    /// Whether only a restart explains that the engine no longer lists it. An unload that seemed to hang may end late.
    pub(crate) fn should_be_loaded(&self) -> bool {
        self.seen_loaded && self.step != Some(Step::Unload) && self.unload_failure.is_none()
    }

    /// What an earlier engine process answered says nothing of this one, unless this one still holds the version: then
    /// it was not the process that had gone.
    pub(crate) fn engine_restarted(&mut self, listed: bool) {
        if !listed {
            self.golden_state = GoldenState::Untested;
            self.seen_loaded = false;
        }
        self.unload_failure = None;
        if self
            .failure
            .as_ref()
            .is_some_and(|failure| failure.step != Step::Fetch)
        {
            self.failure = None;
        }
    }

    /// The work of a step, or `None` where something for it is missing.
    pub(crate) fn task(
        &self,
        step: Step,
        name: &str,
        engine: Option<&FinetuneEngine>,
        base: Option<String>,
        versions: &Versions,
    ) -> Option<Task> {
        let name = name.to_owned();
        let engine = engine.cloned();
        Some(match step {
            Step::Fetch => {
                let (versions, uri, digest) =
                    (versions.clone(), self.uri.clone(), self.digest.clone());
                Box::pin(async move { step::fetch(&versions, &uri, &digest).await })
            }
            Step::Load => {
                let (engine, folder) = (engine?, self.folder.clone()?);
                Box::pin(async move { step::load(&engine, &name, &folder).await })
            }
            Step::Test => {
                let (engine, golden, base) = (engine?, self.golden.clone()?, base?);
                Box::pin(async move {
                    let answers = golden::ask(&engine, &golden, &base, &name).await?;
                    golden::judge(&golden, &answers).map_err(StepError::permanent)?;
                    Ok(Outcome::Done)
                })
            }
            Step::Unload => {
                let engine = engine?;
                Box::pin(async move { step::unload(&engine, &name).await })
            }
        })
    }

    /// Takes over a result. One of an earlier engine process counts only where the engine had no part in it.
    pub(crate) fn take(&mut self, done: Done, epoch: u64, now: Instant) {
        self.step = None;
        if done.epoch != epoch && done.step != Step::Fetch {
            return;
        }
        match done.result {
            Ok(outcome) => {
                if let Outcome::Fetched(fetched) = outcome {
                    self.folder = Some(fetched.folder);
                    self.golden = Some(Arc::new(fetched.golden));
                }
                match done.step {
                    Step::Test => self.golden_state = GoldenState::Passed,
                    // Expected to be gone from the next list: no sign of a restart.
                    Step::Unload => self.seen_loaded = false,
                    Step::Fetch | Step::Load => {}
                }
                if done.step == Step::Unload {
                    self.unload_failure = None;
                } else {
                    self.failure = None;
                }
            }
            Err(error) => {
                if done.step == Step::Test && error.permanent {
                    self.golden_state = GoldenState::Failed;
                }
                let slot = if done.step == Step::Unload {
                    &mut self.unload_failure
                } else {
                    &mut self.failure
                };
                let tries = slot
                    .as_ref()
                    .filter(|failure| failure.step == done.step)
                    .map_or(0, |failure| failure.tries)
                    + 1;
                let delay = Duration::from_secs(1 << tries.min(6)).min(MAX_DELAY);
                *slot = Some(Failure {
                    message: error.message,
                    permanent: error.permanent && done.step != Step::Unload,
                    step: done.step,
                    tries,
                    retry_at: now + delay,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(step: Step, permanent: bool, epoch: u64) -> Done {
        Done {
            version: "one".into(),
            digest: "sha256:1".into(),
            step,
            epoch,
            result: Err(StepError {
                message: "no".into(),
                permanent,
            }),
        }
    }

    #[test]
    fn what_may_get_better_is_tried_again_more_and_more_rarely_and_at_least_once_a_minute() {
        let mut record = Record::new("s3://m/1/", "sha256:1");
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..8 {
            record.take(failed(Step::Fetch, false, 0), 0, now);
            let start = now;
            while record.known(now).held {
                now += Duration::from_secs(1);
            }
            waits.push((now - start).as_secs());
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn bad_files_stay_bad_when_the_engine_restarts_and_a_failed_test_is_done_again() {
        let later = Instant::now() + Duration::from_hours(1);
        let mut files = Record::new("s3://m/1/", "sha256:1");
        files.take(failed(Step::Fetch, true, 0), 0, Instant::now());
        files.engine_restarted(false);
        assert!(files.known(later).held);

        let mut test = Record::new("s3://m/1/", "sha256:1");
        test.take(failed(Step::Test, true, 0), 0, Instant::now());
        assert_eq!(test.known(later).golden, GoldenState::Failed);
        assert!(test.known(later).held);
        test.engine_restarted(false);
        assert_eq!(test.known(later).golden, GoldenState::Untested);
        assert!(!test.known(later).held);
    }

    #[test]
    fn the_answer_of_an_earlier_engine_process_is_ignored() {
        let mut record = Record::new("s3://m/1/", "sha256:1");
        record.step = Some(Step::Test);
        let passed = Done {
            result: Ok(Outcome::Done),
            ..failed(Step::Test, false, 1)
        };
        record.take(passed, 2, Instant::now());
        assert_eq!(record.golden_state, GoldenState::Untested);
        assert_eq!(record.step, None);
    }
}
