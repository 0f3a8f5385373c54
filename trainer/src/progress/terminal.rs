//! What a person sees: a line that moves on a terminal, plain log lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use finetune_crds::contract::{Progress, RunPhase};
use indicatif::{ProgressBar, ProgressStyle};

use super::lock;

/// The time between two log lines of steps, so that fast steps do not fill a disk.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Either of the two.
#[derive(Debug)]
pub(super) enum Terminal {
    /// Standard error is a terminal.
    Line(ProgressBar),
    /// It is not.
    Log {
        /// When the last step was logged.
        last: Mutex<Option<Instant>>,
    },
}

impl Terminal {
    pub(super) fn new() -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::no_length();
            if let Ok(style) =
                ProgressStyle::with_template("{prefix:>10} {bar:30} {pos}/{len} steps  {msg}")
            {
                bar.set_style(style);
            }
            Self::Line(bar)
        } else {
            Self::Log {
                last: Mutex::new(None),
            }
        }
    }

    pub(super) fn phase(&self, phase: RunPhase) {
        let word = match phase {
            RunPhase::Loading => "loading",
            RunPhase::Training => "training",
            RunPhase::Evaluating => "evaluating",
            RunPhase::Publishing => "publishing",
        };
        match self {
            Self::Line(bar) => bar.set_prefix(word),
            Self::Log { .. } => tracing::info!("{word}"),
        }
    }

    pub(super) fn start(&self, step: u64, total_steps: u64) {
        match self {
            Self::Line(bar) => {
                bar.set_length(total_steps);
                bar.set_position(step);
            }
            Self::Log { .. } => tracing::info!("step {step} of {total_steps}"),
        }
    }

    pub(super) fn step(&self, progress: &Progress) {
        let loss = progress
            .loss
            .map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
        let speed = progress.tokens_per_second.unwrap_or_default();
        let eta = in_words(progress.eta_seconds.unwrap_or_default());
        match self {
            Self::Line(bar) => {
                let validation = progress
                    .validation_loss
                    .map_or_else(String::new, |loss| format!("  validation {loss:.4}"));
                bar.set_position(progress.step);
                bar.set_message(format!(
                    "loss {loss}{validation}  {speed:.0} tok/s  ETA {eta}"
                ));
            }
            Self::Log { last } => {
                let mut last = lock(last);
                let is_last = progress.step == progress.total_steps;
                if is_last || last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
                    *last = Some(Instant::now());
                    tracing::info!(
                        "step {} of {}: loss {loss}, {speed:.0} tokens/s, ETA {eta}",
                        progress.step,
                        progress.total_steps
                    );
                }
            }
        }
    }

    pub(super) fn validation(&self, step: u64, loss: f64) {
        let text = format!("step {step}: validation loss {loss:.4}");
        match self {
            Self::Line(bar) => bar.println(text),
            Self::Log { .. } => tracing::info!("{text}"),
        }
    }

    pub(super) fn finish(&self) {
        if let Self::Line(bar) = self {
            bar.finish();
        }
    }
}

/// Such as `1h 5m`, `12m`, `40s`.
fn in_words(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        _ => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn durations_are_told_in_the_largest_fitting_unit() {
        assert_eq!(in_words(59), "59s");
        assert_eq!(in_words(61), "1m");
        assert_eq!(in_words(3900), "1h 5m");
    }
}
