//! How far a run is, told three ways: `/progress` and `/metrics` over HTTP, and the terminal or the log.
//!
//! The training loop writes here and never reads; a slow reader cannot slow a step.

mod memory;
mod metrics;
mod server;
mod terminal;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use finetune_crds::contract::{Progress, RunPhase};

pub use memory::peak_resident_bytes;
pub use metrics::Metrics;
pub use server::serve;

use crate::metrics_log::StepReport;
use terminal::Terminal;

/// The one writer of a run's progress; clones share it.
#[derive(Clone, Debug)]
pub struct Reporter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    progress: Mutex<Progress>,
    speed: Mutex<Speed>,
    metrics: Metrics,
    terminal: Terminal,
}

impl Reporter {
    /// A reporter of the job with this UID.
    pub fn new(uid: &str, metrics: Metrics) -> Self {
        let progress = Progress {
            uid: uid.to_owned(),
            ..Progress::default()
        };
        Self {
            shared: Arc::new(Shared {
                progress: Mutex::new(progress),
                speed: Mutex::new(Speed::default()),
                metrics,
                terminal: Terminal::new(),
            }),
        }
    }

    /// Progress as it is now.
    pub fn progress(&self) -> Progress {
        let mut progress = self.lock().clone();
        progress.peak_memory_bytes = peak_resident_bytes();
        progress
    }

    /// The metrics of this run, as Prometheus reads them.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The attempt was claimed.
    pub fn attempt(&self, attempt: u32) {
        self.lock().attempt = attempt;
    }

    /// The run has entered `phase`.
    pub fn phase(&self, phase: RunPhase) {
        self.lock().phase = phase;
        self.shared.terminal.phase(phase);
    }

    /// The loop starts after `step` of `total_steps`, `tokens` tokens having been seen.
    pub fn start(&self, step: u64, total_steps: u64, tokens: u64, epoch: f64) {
        {
            let mut progress = self.lock();
            progress.step = step;
            progress.total_steps = total_steps;
            progress.tokens = tokens;
            progress.epoch = epoch;
        }
        *lock(&self.shared.speed) = Speed::default();
        self.shared.terminal.start(step, total_steps);
    }

    /// A step begins.
    pub fn step_begins(&self, time: jiff::Timestamp) {
        self.shared.metrics.step_begins(time);
    }

    /// A step is done, which took this long.
    pub fn step(&self, step: &StepReport, duration: Duration) {
        let tokens_per_second = lock(&self.shared.speed).after(step.tokens, duration);
        let progress = {
            let mut progress = self.lock();
            progress.step = step.step;
            progress.epoch = step.epoch;
            progress.loss = finite(step.loss);
            progress.learning_rate = finite(step.learning_rate);
            progress.tokens += step.tokens;
            progress.tokens_per_second = tokens_per_second;
            progress.eta_seconds = lock(&self.shared.speed).seconds_a_step.map(|seconds| {
                (seconds * progress.total_steps.saturating_sub(step.step) as f64).round() as u64
            });
            progress.clone()
        };
        self.shared.metrics.step(step, duration);
        self.shared.terminal.step(&progress);
    }

    /// The validation loss was computed.
    pub fn validation(&self, step: u64, loss: f64) {
        self.lock().validation_loss = finite(loss);
        self.shared.metrics.validation(loss);
        self.shared.terminal.validation(step, loss);
    }

    /// The lowest validation loss so far was that of `step`.
    pub fn best(&self, step: u64, loss: f64) {
        let mut progress = self.lock();
        progress.best_step = Some(step);
        progress.best_validation_loss = finite(loss);
    }

    /// The loss of `step` stood out above the `usual` one.
    pub fn spike(&self, step: u64, loss: f64, usual: f64) {
        {
            let mut progress = self.lock();
            progress.loss_spikes = Some(progress.loss_spikes.unwrap_or(0) + 1);
        }
        self.shared.metrics.spike();
        tracing::warn!(
            step,
            "step {step}: the loss jumped to {loss:.4}, {usual:.4} being usual; if it does not come down, lower training.learningRate or training.maxGradientNorm"
        );
    }

    /// What an earlier attempt had found, taken over at a resume.
    pub fn restore(&self, loss: Option<f64>, validation_loss: Option<f64>, spikes: u64) {
        let mut progress = self.lock();
        progress.loss = loss;
        progress.validation_loss = validation_loss;
        progress.loss_spikes = (spikes > 0).then_some(spikes);
    }

    /// The run ends after `step`, before the last step that was planned.
    pub fn stopped_early(&self, step: u64) {
        let mut progress = self.lock();
        progress.total_steps = step;
        progress.eta_seconds = Some(0);
    }

    /// A checkpoint of `step` is complete.
    pub fn checkpoint(&self, step: u64, time: jiff::Timestamp) {
        let mut progress = self.lock();
        progress.checkpoint_step = Some(step);
        // Whole seconds, as Kubernetes writes its times.
        progress.checkpoint_time = Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }

    /// The loop has ended; the terminal's line is closed.
    pub fn finish(&self) {
        self.shared.terminal.finish();
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        lock(&self.shared.progress)
    }
}

/// A panic elsewhere must not hide the progress: plain numbers are never half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// JSON knows no NaN.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// A moving mean over the last steps, ten or so, that forgets the slow first one.
#[derive(Debug, Default)]
struct Speed {
    tokens_per_second: Option<f64>,
    seconds_a_step: Option<f64>,
    last: Option<Instant>,
}

impl Speed {
    /// Takes a step in and returns the tokens a second. Time between steps (validation, checkpoints) counts for the ETA,
    /// not for the speed.
    fn after(&mut self, tokens: u64, duration: Duration) -> Option<f64> {
        const WEIGHT: f64 = 0.1;
        let mean =
            |old: Option<f64>, new: f64| Some(old.map_or(new, |old| old + WEIGHT * (new - old)));
        let seconds = duration.as_secs_f64();
        if seconds > 0.0 {
            self.tokens_per_second = mean(self.tokens_per_second, tokens as f64 / seconds);
        }
        let now = Instant::now();
        let whole = self.last.map_or(seconds, |last| (now - last).as_secs_f64());
        self.last = Some(now);
        self.seconds_a_step = mean(self.seconds_a_step, whole);
        self.tokens_per_second
    }
}
