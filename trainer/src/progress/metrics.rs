//! The run's metrics for Prometheus, in a registry of their own.

use std::time::Duration;

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntGauge};

use super::memory::peak_resident_bytes;
use crate::metrics_log::StepReport;
use crate::series::Series;

/// The metrics of one run.
#[derive(Clone, Debug)]
pub struct Metrics {
    series: Series,
    step: IntGauge,
    loss: Gauge,
    validation_loss: Gauge,
    learning_rate: Gauge,
    gradient_norm: Gauge,
    tokens: IntCounter,
    step_seconds: Histogram,
    step_started: Gauge,
    loss_spikes: IntCounter,
    peak_memory: IntGauge,
}

impl Metrics {
    /// Registers every metric. A loss that was not computed yet is NaN, which Prometheus draws as a gap.
    pub fn new() -> Result<Self, prometheus::Error> {
        let seconds = vec![0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];
        let series = Series::default();
        let metrics = Self {
            step: series.add(IntGauge::new(
                "finetune_training_step",
                "Optimiser steps done.",
            ))?,
            loss: series.add(Gauge::new(
                "finetune_training_loss",
                "Mean loss over the unmasked tokens of the last step, in nats.",
            ))?,
            validation_loss: series.add(Gauge::new(
                "finetune_validation_loss",
                "Mean loss over the unmasked validation tokens, in nats.",
            ))?,
            learning_rate: series.add(Gauge::new(
                "finetune_learning_rate",
                "Learning rate of the last step.",
            ))?,
            gradient_norm: series.add(Gauge::new(
                "finetune_gradient_norm",
                "Norm of the last step's gradient before clipping.",
            ))?,
            tokens: series.add(IntCounter::new(
                "finetune_tokens_total",
                "Tokens trained on by this process, padding not counted.",
            ))?,
            step_seconds: series.add(Histogram::with_opts(
                HistogramOpts::new("finetune_step_seconds", "Duration of an optimiser step.")
                    .buckets(seconds),
            ))?,
            step_started: series.add(Gauge::new(
                "finetune_training_step_started_timestamp_seconds",
                "Unix time at which the step that is being computed began; NaN while none is.",
            ))?,
            loss_spikes: series.add(IntCounter::new(
                "finetune_loss_spikes_total",
                "Steps of this process whose loss stood out far above those before.",
            ))?,
            peak_memory: series.add(IntGauge::new(
                "finetune_peak_memory_bytes",
                "Peak resident memory of the trainer.",
            ))?,
            series,
        };
        metrics.loss.set(f64::NAN);
        metrics.validation_loss.set(f64::NAN);
        metrics.gradient_norm.set(f64::NAN);
        metrics.step_started.set(f64::NAN);
        Ok(metrics)
    }

    /// A step begins.
    pub(super) fn step_begins(&self, time: jiff::Timestamp) {
        self.step_started.set(time.as_duration().as_secs_f64());
    }

    /// A step is done.
    pub(super) fn step(&self, step: &StepReport, duration: Duration) {
        self.step_started.set(f64::NAN);
        self.step.set(step.step as i64);
        self.loss.set(step.loss);
        self.learning_rate.set(step.learning_rate);
        self.gradient_norm.set(step.gradient_norm);
        self.tokens.inc_by(step.tokens);
        self.step_seconds.observe(duration.as_secs_f64());
    }

    /// The validation loss was computed.
    pub(super) fn validation(&self, loss: f64) {
        self.validation_loss.set(loss);
    }

    /// A loss stood out.
    pub(super) fn spike(&self) {
        self.loss_spikes.inc();
    }

    /// All metrics in Prometheus's text format.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        if let Some(bytes) = peak_resident_bytes() {
            self.peak_memory.set(bytes as i64);
        }
        self.series.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_while_a_step_is_computed_its_beginning_is_told() {
        let metrics = Metrics::new().unwrap();
        let started = || metrics.step_started.get();
        assert!(started().is_nan());
        metrics.step_begins(jiff::Timestamp::from_millisecond(1_500).unwrap());
        assert!((started() - 1.5).abs() < 1e-9);
        metrics.step(&StepReport::default(), Duration::from_secs(1));
        assert!(started().is_nan());
        assert!(
            metrics
                .text()
                .unwrap()
                .contains("finetune_training_step_started_timestamp_seconds NaN")
        );
    }
}
