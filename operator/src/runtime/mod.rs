//! What every controller of this process shares: the client, the lease, metrics, logs, the health server, shutdown, and
//! the frame around each reconcile. Nothing here knows a custom resource.

pub mod client;
pub mod context;
pub mod error;
#[cfg(test)]
pub(crate) mod fake_api;
pub mod lease;
mod malformed;
pub mod metrics;
pub mod poll;
pub mod reconcile;
mod retired;
pub mod server;
pub mod shutdown;
pub mod telemetry;
pub mod watch;

pub use context::Context;
pub use error::Error;
