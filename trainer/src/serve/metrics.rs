//! The server's metrics for Prometheus, in a registry of their own. Labels are bounded: routes and statuses, never names
//! that clients or adapters bring.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts};

use crate::series::Series;

/// Statuses of answers: served, refused, too much asked, failed, not ready.
const STATUSES: [&str; 6] = ["200", "400", "404", "429", "500", "503"];

/// The metrics of one server.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    series: Series,
    /// Answers by `route` and `status`; a stream counts when it begins.
    pub(super) requests: IntCounterVec,
    /// Tokens of prompts that were computed, each once, also where an answer went back to wait.
    pub(super) prompt_tokens: IntCounter,
    /// Tokens that were generated.
    pub(super) generated_tokens: IntCounter,
    /// From a request's arrival to its first token.
    pub(super) first_token_seconds: Histogram,
    /// From one token to the next of the same answer.
    pub(super) token_seconds: Histogram,
    /// Requests whose prompt is being made ready.
    pub(super) preparing: IntGauge,
    /// Answers being computed.
    pub(super) running: IntGauge,
    /// Requests that wait for their turn.
    pub(super) waiting: IntGauge,
    /// Bytes that keys and values take.
    pub(super) key_value_bytes: IntGauge,
    /// Bytes that they may take.
    pub(super) key_value_limit: IntGauge,
    /// Answers that went back to wait for memory.
    pub(super) put_back: IntCounter,
    /// Adapters that are loaded.
    pub(super) adapters: IntGauge,
}

impl Metrics {
    /// Registers every metric.
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let first = vec![0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
        let next = vec![0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0];
        let series = Series::default();
        Ok(Self {
            requests: series.add(IntCounterVec::new(
                Opts::new("finetune_serve_requests_total", "Requests answered."),
                &["route", "status"],
            ))?,
            prompt_tokens: series.add(IntCounter::new(
                "finetune_serve_prompt_tokens_total",
                "Tokens of prompts computed.",
            ))?,
            generated_tokens: series.add(IntCounter::new(
                "finetune_serve_generated_tokens_total",
                "Tokens generated.",
            ))?,
            first_token_seconds: series.add(Histogram::with_opts(
                HistogramOpts::new(
                    "finetune_serve_first_token_seconds",
                    "From a request's arrival to its first token.",
                )
                .buckets(first),
            ))?,
            token_seconds: series.add(Histogram::with_opts(
                HistogramOpts::new(
                    "finetune_serve_token_seconds",
                    "From one token to the next of the same answer.",
                )
                .buckets(next),
            ))?,
            preparing: series.add(IntGauge::new(
                "finetune_serve_preparing",
                "Requests whose prompt is being read and tokenised, or waits for it.",
            ))?,
            running: series.add(IntGauge::new(
                "finetune_serve_running",
                "Answers being computed.",
            ))?,
            waiting: series.add(IntGauge::new(
                "finetune_serve_waiting",
                "Requests that wait for their turn.",
            ))?,
            key_value_bytes: series.add(IntGauge::new(
                "finetune_serve_kv_cache_bytes",
                "Bytes that the keys and values of running answers take.",
            ))?,
            key_value_limit: series.add(IntGauge::new(
                "finetune_serve_kv_cache_limit_bytes",
                "Bytes that they may take.",
            ))?,
            put_back: series.add(IntCounter::new(
                "finetune_serve_put_back_total",
                "Answers that went back to wait for memory and were computed again.",
            ))?,
            adapters: series.add(IntGauge::new("finetune_serve_adapters", "Adapters loaded."))?,
            series,
        })
    }

    /// Has the answers of a route begin at 0 by the statuses that a server is watched for: Prometheus sees no increase in a series
    /// that begins at 1.
    pub(super) fn expect(&self, route: &str) {
        for status in STATUSES {
            self.requests.with_label_values(&[route, status]);
        }
    }

    /// All metrics in Prometheus's text format.
    pub(super) fn text(&self) -> Result<String, prometheus::Error> {
        self.series.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_begin_at_zero_so_that_the_first_failure_is_an_increase() {
        let metrics = Metrics::new().unwrap();
        metrics.expect("/v1/completions");
        let text = metrics.text().unwrap();
        for status in STATUSES {
            let line = format!(
                "finetune_serve_requests_total{{route=\"/v1/completions\",status=\"{status}\"}} 0"
            );
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        assert!(text.contains("finetune_serve_generated_tokens_total 0"));
    }
}
