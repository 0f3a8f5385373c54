//! What Prometheus reads from the agent. Every label has few values: aliases that are desired, fixed words.

use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::state::State;

/// The label value of requests for the base.
pub(crate) const BASE: &str = "base";
/// The label value of requests for names that nobody knows.
pub(crate) const UNKNOWN: &str = "unknown";
/// The classes of statuses that an answer can be of.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];
/// What the agent does with a version.
const STEPS: [&str; 4] = ["fetch", "load", "test", "unload"];

/// All metrics, in a registry of their own.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    first_byte: HistogramVec,
    steps: IntCounterVec,
    versions: IntGaugeVec,
    engine_up: IntGauge,
}

impl Metrics {
    /// Registers everything.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new(
                "finetune_agent_requests_total",
                "Requests to the proxy, by alias (or base, or unknown) and status class.",
            ),
            &["alias", "status"],
        )?;
        let first_byte = HistogramVec::new(
            HistogramOpts::new(
                "finetune_agent_first_byte_seconds",
                "Time from a request to the engine's first byte, by alias.",
            )
            .buckets(vec![
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
            ]),
            &["alias"],
        )?;
        let steps = IntCounterVec::new(
            Opts::new(
                "finetune_agent_steps_total",
                "Steps taken (fetch, load, test, unload), by result.",
            ),
            &["step", "result"],
        )?;
        let versions = IntGaugeVec::new(
            Opts::new("finetune_agent_versions", "Desired versions, by state."),
            &["state"],
        )?;
        let engine_up = IntGauge::new("finetune_agent_engine_up", "Whether the engine answers.")?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(first_byte.clone()))?;
        registry.register(Box::new(steps.clone()))?;
        registry.register(Box::new(versions.clone()))?;
        registry.register(Box::new(engine_up.clone()))?;
        for step in STEPS {
            for result in ["ok", "error"] {
                steps.with_label_values(&[step, result]);
            }
        }
        let metrics = Self {
            registry,
            requests,
            first_byte,
            steps,
            versions,
            engine_up,
        };
        metrics.know(BASE);
        metrics.know(UNKNOWN);
        Ok(metrics)
    }

    /// Has the series of an alias begin at 0: Prometheus sees no increase in one that begins at 1.
    pub(crate) fn know(&self, alias: &str) {
        for class in CLASSES {
            self.requests.with_label_values(&[alias, class]);
        }
        self.first_byte.with_label_values(&[alias]);
    }

    /// Counts a request that ended with `status`.
    pub(crate) fn request(&self, alias: &str, status: u16) {
        let class = match status {
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.requests.with_label_values(&[alias, class]).inc();
    }

    /// Records when the engine began to answer.
    pub(crate) fn first_byte(&self, alias: &str, elapsed: Duration) {
        let histogram = self.first_byte.with_label_values(&[alias]);
        histogram.observe(elapsed.as_secs_f64());
    }

    /// Counts a step.
    pub(crate) fn step(&self, step: &'static str, ok: bool) {
        let result = if ok { "ok" } else { "error" };
        self.steps.with_label_values(&[step, result]).inc();
    }

    /// Takes over what the state says.
    pub(crate) fn state(&self, state: &State) {
        self.engine_up.set(i64::from(state.engine.reachable));
        let count = |matches: &dyn Fn(&super::state::VersionState) -> bool| {
            let found = state.versions.iter().filter(|version| matches(version));
            i64::try_from(found.count()).unwrap_or(i64::MAX)
        };
        for (label, value) in [
            ("desired", count(&|_| true)),
            ("verified", count(&|version| version.verified)),
            ("loaded", count(&|version| version.loaded)),
            ("proven", count(&super::state::VersionState::is_proven)),
            ("failed", count(&|version| version.permanent)),
        ] {
            self.versions.with_label_values(&[label]).set(value);
        }
    }

    /// Drops the series of aliases that are gone.
    pub(crate) fn forget(&self, alias: &str) {
        for class in CLASSES {
            self.requests.remove_label_values(&[alias, class]).ok();
        }
        self.first_byte.remove_label_values(&[alias]).ok();
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        let mut bytes = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_begin_at_zero_so_that_the_first_failure_is_an_increase() {
        let metrics = Metrics::new().unwrap();
        metrics.know("tone");
        let text = metrics.text().unwrap();
        for alias in [BASE, UNKNOWN, "tone"] {
            let line =
                format!("finetune_agent_requests_total{{alias=\"{alias}\",status=\"5xx\"}} 0");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        for step in STEPS {
            let line = format!("finetune_agent_steps_total{{result=\"error\",step=\"{step}\"}} 0");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        metrics.forget("tone");
        assert!(!metrics.text().unwrap().contains("tone"));
    }
}
