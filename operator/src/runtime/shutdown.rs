//! Turns SIGTERM and SIGINT into one token that everything in the process watches. Never ends the process itself.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGTERM or SIGINT.
pub fn token() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: finishing what is under way"),
            _ = interrupt.recv() => tracing::info!("SIGINT: finishing what is under way"),
        }
        cancelled.cancel();
    });
    Ok(token)
}
