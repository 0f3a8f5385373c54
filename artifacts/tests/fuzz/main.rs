//! Parsers of untrusted bytes against thousands of changed files: none panics, none takes memory that the file does not
//! account for, and what is accepted keeps its promises.
//!
//! Seeds are the committed fixtures and small files made here. `driver` says how to run longer, or otherwise.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

mod allocations;
mod data;
mod driver;
mod gguf;
mod mutator;
mod safetensors;
mod sentence_piece;

use std::path::{Path, PathBuf};

use driver::Budget;

/// Some seconds in all.
const BUDGET: Budget = Budget {
    iterations: 10_000,
    memory: 64,
    fixed: 1 << 20,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../trainer/tests/fixtures")
        .join(name)
}
