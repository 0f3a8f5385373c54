//! One optimiser step in numbers: what is shown of it while a run goes on, and a line of `metrics.jsonl`.

use serde::{Deserialize, Serialize};

/// What is told and kept of a step.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
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

impl StepReport {
    /// The report in a line, its numbers to the last digit: serde_json reads some of them one unit of the last place off, and then
    /// a resumed run could decide otherwise.
    pub(crate) fn parse(line: &str) -> Result<Self, serde_json::Error> {
        let mut report: Self = serde_json::from_str(line)?;
        let exact = |key: &str| -> Option<f64> {
            let (_, rest) = line.split_once(&format!("\"{key}\":"))?;
            rest.split([',', '}']).next()?.trim().parse().ok()
        };
        for (number, key) in [
            (&mut report.epoch, "epoch"),
            (&mut report.loss, "loss"),
            (&mut report.accuracy, "accuracy"),
            (&mut report.learning_rate, "learningRate"),
            (&mut report.gradient_norm, "gradientNorm"),
        ] {
            *number = exact(key).unwrap_or(*number);
        }
        report.validation_loss = exact("validationLoss");
        report.validation_accuracy = exact("validationAccuracy");
        Ok(report)
    }
}
