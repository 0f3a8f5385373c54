//! How far a computed number may be from the reference's.
//!
//! The expected numbers of the fixtures are computed in double precision, and `<name>.rounding.json` beside them says how far the
//! reference's own fp32 and bf16 are from that. A tolerance is that distance times a factor, plus some units of rounding: never a number
//! that held on one machine.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

use std::path::Path;

use serde_json::Value;

/// So many times the distance of the reference's own fp32: sums in two orders are that far apart now and then. As in `compare.py`.
const FACTOR: f64 = 4.0;
/// What fp32 may always be off by, where the reference came near by luck: sixteen roundings.
pub(crate) const SINGLE: f64 = 16.0 / (1 << 24) as f64;
/// The same for bfloat16: a smaller factor, because ours rounds less often than the reference, and one rounding.
const FACTOR_IN_BRAIN: f64 = 2.0;
const BRAIN: f64 = 1.0 / 256.0;

/// The distances of a fixture's numbers.
pub(crate) struct Rounding(Value);

impl Rounding {
    /// Those of a fixture: `expected/lora-tiny-llama.safetensors`.
    pub(crate) fn of(fixture: &str) -> Self {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let path = fixtures.join(fixture).with_extension("rounding.json");
        let text =
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(serde_json::from_slice(&text).unwrap())
    }

    #[track_caller]
    fn distance(&self, precision: &str, key: &str) -> f64 {
        let found = self.0[precision][&group(key)].as_f64();
        found.unwrap_or_else(|| panic!("no distance of `{key}` in {precision}"))
    }

    /// How far ours in fp32 may be, relative to the largest value of the tensor.
    #[track_caller]
    pub(crate) fn single(&self, key: &str) -> f64 {
        FACTOR * self.distance("fp32", key) + SINGLE
    }

    /// How far ours in bfloat16 may be, by the Euclidean norm.
    #[track_caller]
    pub(crate) fn brain(&self, key: &str) -> f64 {
        FACTOR_IN_BRAIN * self.distance("bf16", key) + BRAIN
    }
}

/// Tensors that share a distance: of `ragged.grad.<name>` it is `ragged.grad`.
fn group(key: &str) -> String {
    let parts: Vec<&str> = key.split('.').collect();
    let before = &parts[..parts.len() - 1];
    let kind = before
        .iter()
        .position(|part| ["hidden", "grad", "final"].contains(part));
    kind.map_or_else(|| key.to_owned(), |at| parts[..=at].join("."))
}
