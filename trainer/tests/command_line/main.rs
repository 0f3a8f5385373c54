//! `trainer` as people and pods run it: the real binary on tiny models, one program for all, since each would be linked
//! with the whole trainer.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

mod bench;
mod faulty_store;
#[path = "../hub/mod.rs"]
mod hub;
mod hub_base;
mod methods;
mod refusals;
mod results;
mod resume;
mod sources;
mod stop;
mod stored_base;
mod train;
