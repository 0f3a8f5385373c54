//! The clock. Everything else gets the time as a parameter.

/// The time now.
#[expect(clippy::disallowed_methods, reason = "the edge at which time comes in")]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
