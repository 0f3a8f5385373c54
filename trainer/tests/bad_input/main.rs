//! Broken and hostile inputs, by tables: each is refused with the file and the place, without a panic and without anything
//! being written.
//!
//! Most cases go through the library as the trainer does: open the base, check its weights, load it. What the whole
//! command does then is in `command_line`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    reason = "a test's failure is a panic, and a case of a table is one expression"
)]

#[path = "../command_line/bench/mod.rs"]
mod bench;
mod command_line;
mod data;
mod directory;
mod gguf;
mod safetensors;
mod saved_in_4_bits;
mod sentence_piece;
mod table;
