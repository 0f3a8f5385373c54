//! The embedded server over HTTP, on the tiny models of `fixtures`: what clients and engines' callers rely on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    reason = "helpers of tests fail as tests do, and counters are whole"
)]

mod adapters;
mod client;
mod lifecycle;
mod memory;
mod process;
mod requests;
mod scores;
mod stops;
mod streaming;
#[path = "../tolerance/mod.rs"]
mod tolerance;
mod tools;
