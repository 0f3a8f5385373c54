//! How a status is written: conditions whose time changes only when they flip, numbers as the columns show them. Pure.

use finetune_crds::FineTuneJobStatus;
use finetune_crds::contract::Progress;
use finetune_crds::fine_tune_job::{CheckpointStatus, JobPhase, ProgressStatus};
use finetune_crds::names::condition;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The most characters of a condition's message.
const MAX_MESSAGE: usize = 1500;

/// A status being changed, with what every change needs: the generation it speaks of, and the time.
#[derive(Debug)]
pub struct Draft {
    /// The status so far.
    pub status: FineTuneJobStatus,
    generation: Option<i64>,
    now: Timestamp,
}

impl Draft {
    /// Starts from what is stored.
    pub fn new(
        stored: Option<&FineTuneJobStatus>,
        generation: Option<i64>,
        now: Timestamp,
    ) -> Self {
        let mut status = stored.cloned().unwrap_or_default();
        status.observed_generation = generation;
        Self {
            status,
            generation,
            now,
        }
    }

    /// Sets the phase and, as kstatus reads it, whether the controller is still at work.
    pub fn phase(&mut self, phase: JobPhase) {
        self.status.phase = Some(phase);
        let (reconciling, message) = match phase {
            JobPhase::Succeeded => ("False", "The job has ended well."),
            JobPhase::Failed => (
                "False",
                "The job has ended badly; see the condition Failed.",
            ),
            _ => ("True", "The job is under way."),
        };
        self.condition(condition::RECONCILING, reconciling, phase.as_str(), message);
    }

    /// Sets a condition. `status` is `True`, `False` or `Unknown`.
    pub fn condition(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let message: String = message.chars().take(MAX_MESSAGE).collect();
        let reason = as_reason(reason);
        let fresh = |transition: Time| Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.clone(),
            message: message.clone(),
            observed_generation: self.generation,
            last_transition_time: transition,
        };
        match self
            .status
            .conditions
            .iter_mut()
            .find(|known| known.type_ == type_)
        {
            Some(known) => {
                let transition = if known.status == status {
                    known.last_transition_time.clone()
                } else {
                    Time(self.now)
                };
                *known = fresh(transition);
            }
            None => self.status.conditions.push(fresh(Time(self.now))),
        }
    }

    /// Takes a condition away.
    pub fn forget(&mut self, type_: &str) {
        self.status.conditions.retain(|known| known.type_ != type_);
    }

    /// The job has ended badly.
    pub fn failed(&mut self, reason: &str, message: &str) {
        self.phase(JobPhase::Failed);
        self.condition(condition::FAILED, "True", reason, message);
        self.condition(condition::STALLED, "True", reason, message);
        self.settle();
    }

    /// The job has ended well.
    pub fn succeeded(&mut self, reason: &str, message: &str) {
        self.phase(JobPhase::Succeeded);
        self.condition(condition::COMPLETE, "True", reason, message);
        self.settle();
    }

    /// What only a job under way has.
    fn settle(&mut self) {
        self.forget(condition::PODS_RUNNING);
        self.forget(condition::PROGRESS_REPORTED);
        if let Some(progress) = &mut self.status.progress {
            progress.eta = None;
        }
    }

    /// The run has made its last step, even where nobody was there to see it.
    pub fn progress_is_complete(&mut self) {
        if let Some(progress) = &mut self.status.progress {
            progress.step = progress.total_steps;
            "100%".clone_into(&mut progress.percent);
        }
    }

    /// Takes over what a run reports.
    pub fn progress(&mut self, progress: &Progress) {
        if progress.total_steps > 0 {
            self.status.progress = Some(progress_status(progress));
        }
        if let Some(step) = progress.checkpoint_step {
            let time = progress
                .checkpoint_time
                .as_deref()
                .and_then(|time| time.parse::<Timestamp>().ok())
                .map(Time);
            self.status.checkpoint = Some(CheckpointStatus {
                step: whole(step),
                time,
            });
        }
    }
}

/// The condition of a type.
pub fn condition_of<'a>(
    status: Option<&'a FineTuneJobStatus>,
    type_: &str,
) -> Option<&'a Condition> {
    status?.conditions.iter().find(|known| known.type_ == type_)
}

/// Whether a condition is `True`.
pub fn is_true(status: Option<&FineTuneJobStatus>, type_: &str) -> bool {
    condition_of(status, type_).is_some_and(|known| known.status == "True")
}

/// Why the job is where it is, in one word, where there is something to say.
pub fn reason_of(status: &FineTuneJobStatus) -> Option<String> {
    let with = |type_, wanted: &str| {
        condition_of(Some(status), type_)
            .filter(|known| known.status == wanted)
            .map(|known| known.reason.clone())
    };
    with(condition::FAILED, "True")
        .or_else(|| with(condition::PODS_RUNNING, "False"))
        .or_else(|| with(condition::PUBLISHED, "False"))
}

/// A reason as the API accepts it: letters, digits and `_`, beginning with a letter.
fn as_reason(text: &str) -> String {
    let reason: String = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .skip_while(|c| !c.is_ascii_alphabetic())
        .take(128)
        .collect();
    let reason = reason.trim_end_matches('_');
    if reason.is_empty() {
        "Unknown".to_owned()
    } else {
        reason.to_owned()
    }
}

fn progress_status(progress: &Progress) -> ProgressStatus {
    let step = progress.step.min(progress.total_steps);
    let percent = step * 100 / progress.total_steps.max(1);
    let finite = |number: Option<f64>| number.filter(|number| number.is_finite());
    ProgressStatus {
        step: whole(progress.step),
        total_steps: whole(progress.total_steps),
        percent: format!("{percent}%"),
        epoch: format!("{:.2}", finite(Some(progress.epoch)).unwrap_or_default()),
        loss: finite(progress.loss).map(|loss| format!("{loss:.4}")),
        validation_loss: finite(progress.validation_loss).map(|loss| format!("{loss:.4}")),
        best_validation_loss: finite(progress.best_validation_loss)
            .map(|loss| format!("{loss:.4}")),
        best_step: progress.best_step.map(whole),
        loss_spikes: progress.loss_spikes.map(whole),
        learning_rate: finite(progress.learning_rate).map(|rate| format!("{rate:.2e}")),
        tokens_per_second: finite(progress.tokens_per_second).map(|speed| format!("{speed:.0}")),
        tokens: whole(progress.tokens),
        eta: progress.eta_seconds.map(duration),
        peak_memory: progress.peak_memory_bytes.map(memory),
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A duration in one or two units: `45s`, `12m`, `3h5m`, `2d4h`. Above ten minutes seconds would only flicker.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..600 => format!("{minutes}m{}s", seconds % 60 / 10 * 10),
        600..3600 => format!("{minutes}m"),
        3600..86_400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

fn memory(bytes: u64) -> String {
    const MEBI: f64 = 1024.0 * 1024.0;
    let mebi = bytes as f64 / MEBI;
    if mebi < 1024.0 {
        format!("{mebi:.0}Mi")
    } else {
        format!("{:.1}Gi", mebi / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_conditions_time_changes_only_when_it_flips() {
        let mut draft = Draft::new(None, Some(1), at(1));
        draft.condition("X", "False", "A", "a");
        let mut later = Draft::new(Some(&draft.status), Some(1), at(2));
        later.condition("X", "False", "B", "b");
        let condition = condition_of(Some(&later.status), "X").unwrap();
        assert_eq!(
            (condition.last_transition_time.0, condition.reason.as_str()),
            (at(1), "B")
        );
        let mut flipped = Draft::new(Some(&later.status), Some(1), at(3));
        flipped.condition("X", "True", "C", "c");
        assert_eq!(
            condition_of(Some(&flipped.status), "X")
                .unwrap()
                .last_transition_time
                .0,
            at(3)
        );
        assert_eq!(flipped.status.conditions.len(), 1);
    }

    #[test]
    fn columns_read_as_the_manual_says() {
        let mut draft = Draft::new(None, None, at(0));
        draft.progress(&Progress {
            step: 42,
            total_steps: 100,
            epoch: 1.254,
            loss: Some(1.834_24),
            validation_loss: Some(f64::NAN),
            best_validation_loss: Some(0.5),
            best_step: Some(30),
            loss_spikes: Some(2),
            learning_rate: Some(0.000_2),
            tokens_per_second: Some(1234.5),
            eta_seconds: Some(720),
            peak_memory_bytes: Some(7_408_000_000),
            checkpoint_step: Some(40),
            checkpoint_time: Some("2026-01-02T03:04:05Z".into()),
            ..Progress::default()
        });
        let progress = draft.status.progress.unwrap();
        assert_eq!(progress.percent, "42%");
        assert_eq!(progress.epoch, "1.25");
        assert_eq!(progress.loss.as_deref(), Some("1.8342"));
        assert_eq!(progress.validation_loss, None);
        assert_eq!(progress.best_validation_loss.as_deref(), Some("0.5000"));
        assert_eq!(
            (progress.best_step, progress.loss_spikes),
            (Some(30), Some(2))
        );
        assert_eq!(progress.learning_rate.as_deref(), Some("2.00e-4"));
        assert_eq!(progress.eta.as_deref(), Some("12m"));
        assert_eq!(progress.peak_memory.as_deref(), Some("6.9Gi"));
        let checkpoint = draft.status.checkpoint.unwrap();
        assert_eq!(checkpoint.step, 40);
        assert!(checkpoint.time.is_some());
    }

    #[rstest]
    #[case(45, "45s")]
    #[case(95, "1m30s")]
    #[case(720, "12m")]
    #[case(11_100, "3h5m")]
    #[case(187_200, "2d4h")]
    fn durations_are_short(#[case] seconds: u64, #[case] expected: &str) {
        assert_eq!(duration(seconds), expected);
    }

    #[rstest]
    #[case("ImagePullBackOff", "ImagePullBackOff")]
    #[case("9 lives!", "lives")]
    #[case("", "Unknown")]
    fn a_reason_is_what_the_api_accepts(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(as_reason(text), expected);
    }
}
