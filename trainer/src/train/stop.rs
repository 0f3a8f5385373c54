//! The wish of the outside that the process stop: SIGTERM from the kubelet, SIGINT from a person.
//!
//! The loop asks between steps, so that a step is never torn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

/// Whether the process was told to stop; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    told: Arc<AtomicBool>,
}

impl Stop {
    /// Listens to the signals from now on.
    pub fn listen() -> std::io::Result<Self> {
        let stop = Self::default();
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let mut signals = signal(kind)?;
            let told = Arc::clone(&stop.told);
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if !told.swap(true, Ordering::Relaxed) {
                        tracing::info!("told to stop: finishing the step, then a checkpoint");
                    }
                }
            });
        }
        Ok(stop)
    }

    /// Whether it was told.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }
}
