//! `metrics.jsonl`, `metrics.csv` and TensorBoard's event file: a row an optimiser step.
//!
//! The rows of a resumed run are those of an uninterrupted one: what came after the checkpoint is cut off first. Wall
//! time is left out of the first two for the same reason.

mod tensorboard;

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use tensorboard::EventFile;

/// What is kept of a step.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// From 1.
    pub step: u64,
    /// Epochs done, with a fraction.
    pub epoch: f64,
    /// The mean loss over the step's unmasked tokens, in nats, before the update.
    pub loss: f64,
    /// The share of those tokens that the model finds likeliest of all, before the update; of preferences the share of pairs
    /// of which it prefers the right answer.
    pub accuracy: f64,
    /// The rate that the step used.
    pub learning_rate: f64,
    /// The gradient's norm before clipping.
    pub gradient_norm: f64,
    /// Tokens of the step's rows.
    pub tokens: u64,
    /// Whether the loss stood out far above those before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spike: bool,
    /// The validation loss after the update, where it was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// The same share of the validation rows, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_accuracy: Option<f64>,
}

impl Row {
    /// The row of a line, its numbers to the last digit: serde_json reads some of them one unit of the last place off, and then
    /// a resumed run could decide otherwise.
    pub(crate) fn parse(line: &str) -> Result<Self, serde_json::Error> {
        let mut row: Self = serde_json::from_str(line)?;
        let exact = |key: &str| -> Option<f64> {
            let (_, rest) = line.split_once(&format!("\"{key}\":"))?;
            rest.split([',', '}']).next()?.trim().parse().ok()
        };
        for (number, key) in [
            (&mut row.epoch, "epoch"),
            (&mut row.loss, "loss"),
            (&mut row.accuracy, "accuracy"),
            (&mut row.learning_rate, "learningRate"),
            (&mut row.gradient_norm, "gradientNorm"),
        ] {
            *number = exact(key).unwrap_or(*number);
        }
        row.validation_loss = exact("validationLoss");
        row.validation_accuracy = exact("validationAccuracy");
        Ok(row)
    }
}

/// All rows so far, in order of their steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsLog {
    rows: Vec<Row>,
    /// The rows as text. Kept, because reading a number and writing it again may change its last digit.
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
            log.rows.push(Row::parse(line)?);
            log.lines.push(line.to_owned());
        }
        Ok(log)
    }

    /// Adds the row of the next step, which was done at `now`.
    pub fn push(&mut self, row: Row, now: jiff::Timestamp) -> Result<(), serde_json::Error> {
        self.lines.push(serde_json::to_string(&row)?);
        let mut scalars = vec![
            ("train/loss", row.loss),
            ("train/accuracy", row.accuracy),
            ("train/learning_rate", row.learning_rate),
            ("train/gradient_norm", row.gradient_norm),
        ];
        scalars.extend(row.validation_loss.map(|loss| ("validation/loss", loss)));
        scalars.extend(
            row.validation_accuracy
                .map(|accuracy| ("validation/accuracy", accuracy)),
        );
        let seconds = now.as_microsecond() as f64 / 1e6;
        self.events.push(seconds, row.step, &scalars);
        self.rows.push(row);
        Ok(())
    }

    /// All rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The last row.
    pub fn last(&self) -> Option<&Row> {
        self.rows.last()
    }

    /// The newest validation loss.
    pub fn validation_loss(&self) -> Option<f64> {
        self.rows.iter().rev().find_map(|row| row.validation_loss)
    }

    /// Tokens of all rows.
    pub fn tokens(&self) -> u64 {
        self.rows.iter().map(|row| row.tokens).sum()
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
        for row in &self.rows {
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
            let row = Row {
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
                ..Row::default()
            };
            log.push(row, jiff::Timestamp::UNIX_EPOCH).unwrap();
        }
        log
    }

    #[test]
    fn what_is_read_back_is_the_same_to_the_byte() {
        let written = log(3);
        let read = MetricsLog::parse(&written.to_jsonl(), written.events().to_vec()).unwrap();
        assert_eq!(read, written);
        assert_eq!(read.to_csv(), written.to_csv());
        assert_eq!(read.last().map(|row| row.step), Some(3));
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
