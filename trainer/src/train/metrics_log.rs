//! `metrics.jsonl` and `metrics.csv`: a row an optimiser step.
//!
//! The rows of a resumed run are those of an uninterrupted one: what came after the checkpoint is cut off first. Wall
//! time is left out for the same reason.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// What is kept of a step.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// From 1.
    pub step: u64,
    /// Epochs done, with a fraction.
    pub epoch: f64,
    /// The mean loss over the step's unmasked tokens, in nats, before the update.
    pub loss: f64,
    /// The rate that the step used.
    pub learning_rate: f64,
    /// The gradient's norm before clipping.
    pub gradient_norm: f64,
    /// Tokens of the step's rows.
    pub tokens: u64,
    /// The validation loss after the update, where it was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

/// All rows so far, in order of their steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsLog {
    rows: Vec<Row>,
    /// The rows as text. Kept, because reading a number and writing it again may change its last digit.
    lines: Vec<String>,
}

impl MetricsLog {
    /// The rows of `jsonl` up to and including `step`.
    pub fn parse(jsonl: &str, step: u64) -> Result<Self, serde_json::Error> {
        let mut log = Self::default();
        for line in jsonl.lines().filter(|line| !line.is_empty()) {
            let row: Row = serde_json::from_str(line)?;
            if row.step <= step {
                log.rows.push(row);
                log.lines.push(line.to_owned());
            }
        }
        Ok(log)
    }

    /// Adds the row of the next step.
    pub fn push(&mut self, row: Row) -> Result<(), serde_json::Error> {
        self.lines.push(serde_json::to_string(&row)?);
        self.rows.push(row);
        Ok(())
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

    /// The same with the column names of OpenAI's result files, as far as they are computed here, and ours after them.
    pub fn to_csv(&self) -> String {
        let mut text = "step,train_loss,valid_loss,learning_rate,gradient_norm,tokens\n".to_owned();
        for row in &self.rows {
            let valid_loss = row
                .validation_loss
                .map_or_else(String::new, |loss| loss.to_string());
            let _ = writeln!(
                text,
                "{},{},{valid_loss},{},{},{}",
                row.step, row.loss, row.learning_rate, row.gradient_norm, row.tokens
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, validation_loss: Option<f64>) -> Row {
        Row {
            step,
            epoch: 0.5,
            loss: 0.1 + step as f64 / 3.0,
            learning_rate: 2e-4,
            gradient_norm: 1.0,
            tokens: 7,
            validation_loss,
        }
    }

    #[test]
    fn rows_after_the_checkpoint_are_cut_and_the_others_stay_to_the_byte() {
        let mut log = MetricsLog::default();
        for step in 1..=3 {
            log.push(row(step, (step == 2).then_some(1.0 / 3.0)))
                .unwrap();
        }
        let jsonl = log.to_jsonl();
        let read = MetricsLog::parse(&jsonl, 2).unwrap();
        assert!(jsonl.starts_with(&read.to_jsonl()) && read.to_jsonl().lines().count() == 2);
        assert_eq!(read.last().map(|row| row.step), Some(2));
        assert_eq!(read.tokens(), 14);
        assert!(read.validation_loss().is_some());
    }

    #[test]
    fn a_step_without_validation_leaves_its_column_empty() {
        let mut log = MetricsLog::default();
        log.push(row(1, None)).unwrap();
        assert!(log.to_csv().lines().nth(1).unwrap().contains(",,0.0002,"));
    }
}
