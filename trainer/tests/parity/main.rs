//! The numeric core against transformers, peft and bitsandbytes.
//!
//! The expected numbers lie in `tests/fixtures`, whose README says how `tests/parity/make_fixtures.py` made them, and how far a number may
//! be from them. Nothing in here is made lenient: a difference is a bug, or a line in the README that says why it cannot be one.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::float_cmp,
    reason = "a test's helpers end it as its own lines do, and bits are compared as bits"
)]

mod adamw_8bit;
mod bf16;
mod expected;
mod families;
mod fixture;
mod four_bit;
mod full;
mod gguf_adapter;
mod inference;
mod lora;
mod merged;
mod methods;
mod mutations;
mod packing;
mod preference;
mod schedules;
mod stored_four_bit;
#[path = "../tolerance/mod.rs"]
mod tolerance;
mod trajectory;
