//! What a reconciler is given: the way to the cluster, the clock, and how this installation is set up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::runtime::events::Recorder;
use kube::runtime::watcher;

use super::metrics::Metrics;
use super::poll::PodReader;
use super::server::Readiness;
use crate::settings::OperatorSettings;

/// What a reconciler is given.
pub struct Context {
    /// The way to the API server.
    pub client: Client,
    /// The clock.
    pub now: fn() -> Timestamp,
    /// Writes Events. One for the process: it folds repeats into series.
    pub recorder: Recorder,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// What is still awaited before the process is ready.
    pub readiness: Readiness,
    /// Reads small documents from pods.
    pub pods: PodReader,
    /// How this installation is set up.
    pub settings: OperatorSettings,
    /// How watches begin.
    pub watch: watcher::Config,
    /// How long an object rests after failures.
    pub backoff: Backoff,
}

/// How long each object rests after failures: twice as long each time, up to a bound.
///
/// kube's error policy sees neither attempts nor past delays, so they are kept here. Losing them costs a few tries.
#[derive(Debug, Default)]
pub struct Backoff(Mutex<HashMap<Key, u32>>);

/// Whose count it is: the controller, the object's namespace and name.
pub type Key = (&'static str, Option<String>, String);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_mins(5);

    /// The object has failed once more: how long it rests. `spread` in 0..1 keeps objects that failed together apart.
    pub fn failed(&self, key: Key, spread: f64) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key).or_default();
        let delay = Self::FIRST
            .saturating_mul(1_u32 << (*count).min(16))
            .min(Self::LONGEST);
        *count = count.saturating_add(1);
        delay.mul_f64(0.75 + spread.clamp(0.0, 1.0) / 4.0)
    }

    /// The object has succeeded, or is gone: its next failure is the first.
    pub fn forget(&self, key: &Key) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }

    /// How many objects it keeps a count of.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_longer_after_each_failure_and_afresh_after_a_success() {
        let backoff = Backoff::default();
        let key = ("x", None, "a".to_owned());
        let first = backoff.failed(key.clone(), 1.0);
        assert_eq!(backoff.failed(key.clone(), 1.0), first * 2);
        for _ in 0..40 {
            backoff.failed(key.clone(), 1.0);
        }
        assert_eq!(backoff.failed(key.clone(), 1.0), Backoff::LONGEST);
        assert_eq!(backoff.failed(("x", None, "b".to_owned()), 1.0), first);
        backoff.forget(&key);
        assert_eq!(backoff.failed(key, 1.0), first);
    }
}
