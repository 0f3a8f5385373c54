//! Runs a parser on changed files, always the same ones.
//!
//! `FINETUNE_FUZZ_ITERATIONS` makes a run longer, `FINETUNE_FUZZ_SEED` makes it another one. An input that fails is kept,
//! and its place is in the message.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::allocations;
use crate::mutator::Mutator;

/// What a run may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Changed files, where the environment does not say.
    pub(crate) iterations: u64,
    /// Bytes of memory for each byte of a file.
    pub(crate) memory: usize,
    /// Bytes of memory for any file.
    pub(crate) fixed: usize,
}

/// Runs `target` on changed copies of `seeds`.
#[track_caller]
pub(crate) fn fuzz(name: &str, budget: Budget, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    for seed in seeds {
        target(seed);
    }
    let iterations = number("FINETUNE_FUZZ_ITERATIONS").unwrap_or(budget.iterations);
    let mut mutator = Mutator::new(number("FINETUNE_FUZZ_SEED").unwrap_or(0));
    for iteration in 0..iterations {
        let bytes = mutator.changed(seeds);
        let most = budget.memory * bytes.len() + budget.fixed;
        let ended = catch_unwind(AssertUnwindSafe(|| allocations::peak(|| target(&bytes))));
        let fault = match ended {
            Ok(peak) if peak <= most => continue,
            Ok(peak) => format!("it took {peak} bytes of memory for {}", bytes.len()),
            Err(_) => "it panicked".to_owned(),
        };
        let path = std::env::temp_dir().join(format!("fuzz-{name}-{iteration}"));
        std::fs::write(&path, bytes).unwrap();
        panic!(
            "{name}, iteration {iteration}: {fault}; the input is kept in {}",
            path.display()
        );
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A place to write changed files to, one for each target.
pub(crate) struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        // In memory where there is such a place: a disk would make each iteration wait.
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        Self {
            folder: folder.unwrap(),
        }
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("changed");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}
