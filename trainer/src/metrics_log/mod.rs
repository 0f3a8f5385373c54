//! `metrics.jsonl`, `metrics.csv` and TensorBoard's event file: a row an optimiser step, which is its report.
//!
//! The rows of a resumed run are those of an uninterrupted one: what came after the checkpoint is cut off first. Wall
//! time is left out of the first two for the same reason.

mod step_report;
mod tensorboard;

use std::fmt::Write;

pub use step_report::StepReport;
use tensorboard::EventFile;

/// The reports of all steps so far, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsLog {
    steps: Vec<StepReport>,
    /// The same as text. Kept, because reading a number and writing it again may change its last digit.
    lines: Vec<String>,
    events: EventFile,
}

impl MetricsLog {
    /// The rows of `jsonl`, and the event file that was written along with them.
    pub fn parse(jsonl: &str, events: Vec<u8>) -> Result<Self, serde_json::Error> {
        let mut log = Self {
            events: EventFile::from_bytes(events),
            ..Self::default()
        };
        for line in jsonl.lines().filter(|line| !line.is_empty()) {
            log.steps.push(StepReport::parse(line)?);
            log.lines.push(line.to_owned());
        }
        Ok(log)
    }

    /// Adds the report of the next step, which was done at `now`.
    pub fn push(
        &mut self,
        report: StepReport,
        now: jiff::Timestamp,
    ) -> Result<(), serde_json::Error> {
        self.lines.push(serde_json::to_string(&report)?);
        let mut scalars = vec![
            ("train/loss", report.loss),
            ("train/accuracy", report.accuracy),
            ("train/learning_rate", report.learning_rate),
            ("train/gradient_norm", report.gradient_norm),
        ];
        scalars.extend(report.validation_loss.map(|loss| ("validation/loss", loss)));
        scalars.extend(
            report
                .validation_accuracy
                .map(|accuracy| ("validation/accuracy", accuracy)),
        );
        let seconds = now.as_microsecond() as f64 / 1e6;
        self.events.push(seconds, report.step, &scalars);
        self.steps.push(report);
        Ok(())
    }

    /// All steps.
    pub fn steps(&self) -> &[StepReport] {
        &self.steps
    }

    /// The last step.
    pub fn last(&self) -> Option<&StepReport> {
        self.steps.last()
    }

    /// The newest validation loss.
    pub fn validation_loss(&self) -> Option<f64> {
        self.steps
            .iter()
            .rev()
            .find_map(|step| step.validation_loss)
    }

    /// Tokens of all steps.
    pub fn tokens(&self) -> u64 {
        self.steps.iter().map(|step| step.tokens).sum()
    }

    /// One JSON object a line.
    pub fn to_jsonl(&self) -> String {
        self.lines
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect()
    }

    /// The same with the column names of OpenAI's result files, and ours after them.
    pub fn to_csv(&self) -> String {
        let mut text = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,\
                        learning_rate,gradient_norm,tokens\n"
            .to_owned();
        let optional =
            |number: Option<f64>| number.map_or_else(String::new, |number| number.to_string());
        for row in &self.steps {
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{}",
                row.step,
                row.loss,
                row.accuracy,
                optional(row.validation_loss),
                optional(row.validation_accuracy),
                row.learning_rate,
                row.gradient_norm,
                row.tokens
            );
        }
        text
    }

    /// TensorBoard's event file.
    pub fn events(&self) -> &[u8] {
        self.events.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(steps: u64) -> MetricsLog {
        let mut log = MetricsLog::default();
        for step in 1..=steps {
            let report = StepReport {
                step,
                epoch: 0.5,
                // serde_json reads 9.054250067662279 as 9.05425006766228.
                loss: 9.054_250_067_662_279 * step as f64,
                accuracy: 0.25,
                learning_rate: 2e-4,
                gradient_norm: 1.0,
                tokens: 7,
                validation_loss: (step == 2).then_some(1.0 / 3.0),
                validation_accuracy: (step == 2).then_some(0.75),
                ..StepReport::default()
            };
            log.push(report, jiff::Timestamp::UNIX_EPOCH).unwrap();
        }
        log
    }

    #[test]
    fn what_is_read_back_is_the_same_to_the_byte() {
        let written = log(3);
        let read = MetricsLog::parse(&written.to_jsonl(), written.events().to_vec()).unwrap();
        assert_eq!(read, written);
        assert_eq!(read.to_csv(), written.to_csv());
        assert_eq!(read.last().map(|last| last.step), Some(3));
        assert_eq!(read.tokens(), 21);
        assert!(read.validation_loss().is_some());
    }

    #[test]
    fn a_step_without_validation_leaves_its_columns_empty() {
        let csv = log(2).to_csv();
        let mut lines = csv.lines();
        assert_eq!(
            lines.next(),
            Some(
                "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,learning_rate,gradient_norm,tokens"
            )
        );
        assert!(lines.next().unwrap().contains(",0.25,,,0.0002,"));
        assert!(
            lines
                .next()
                .unwrap()
                .contains(",0.25,0.3333333333333333,0.75,0.0002,")
        );
    }
}
