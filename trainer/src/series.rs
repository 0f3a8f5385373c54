//! The Prometheus series of a process, in a registry of their own.

use prometheus::core::Collector;
use prometheus::{Encoder, Registry, TextEncoder};

/// Series that are shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Registry);

impl Series {
    /// Shows a series from now on: one that is made and not shown would be filled, and read by nobody.
    pub(crate) fn add<S>(&self, made: Result<S, prometheus::Error>) -> Result<S, prometheus::Error>
    where
        S: Collector + Clone + 'static,
    {
        let series = made?;
        self.0.register(Box::new(series.clone()))?;
        Ok(series)
    }

    /// All of them in Prometheus's text format.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.0.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
