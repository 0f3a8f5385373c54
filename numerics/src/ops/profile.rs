//! How long each kind of operation takes, for benchmarks. Off, it costs the reading of one flag an operation.
//!
//! Times are of the thread that computes a pass, each operation without those that it calls. Nothing is computed otherwise by it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A kind of operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Products with the base's weights.
    Product,
    /// Decoding 4-bit weights, or casting others.
    Decode,
    /// The products of adapters.
    LowRank,
    /// Scores, softmax and the sums of values.
    Attention,
    /// The turn of queries and keys.
    Rotation,
    /// Norms of rows.
    Norm,
    /// Gated activations.
    Gate,
    /// The head's products, losses and their gradients.
    Loss,
    /// Clipping and the optimiser.
    Optimizer,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Product,
        Self::Decode,
        Self::LowRank,
        Self::Attention,
        Self::Rotation,
        Self::Norm,
        Self::Gate,
        Self::Loss,
        Self::Optimizer,
    ];
}

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Nanoseconds, by [`Operation`].
static SPENT: [AtomicU64; Operation::ALL.len()] =
    [const { AtomicU64::new(0) }; Operation::ALL.len()];

thread_local! {
    /// What runs on this thread, and since when it has run without a call.
    static RUNNING: Cell<Option<(Operation, Instant)>> = const { Cell::new(None) };
}

/// What `run` returns; while it runs, what every operation takes, in the order of [`Operation::ALL`], is added up.
pub fn profiled<R>(run: impl FnOnce() -> R) -> (R, Vec<(Operation, Duration)>) {
    for spent in &SPENT {
        spent.store(0, Ordering::Relaxed);
    }
    IS_ON.store(true, Ordering::Relaxed);
    let result = run();
    IS_ON.store(false, Ordering::Relaxed);
    let spent = Operation::ALL.into_iter().map(|operation| {
        let nanoseconds = SPENT[operation as usize].load(Ordering::Relaxed);
        (operation, Duration::from_nanos(nanoseconds))
    });
    (result, spent.collect())
}

/// What `run` returns, its time counted as that of the operation.
pub(crate) fn timed<R>(operation: Operation, run: impl FnOnce() -> R) -> R {
    if !IS_ON.load(Ordering::Relaxed) {
        return run();
    }
    let caller = RUNNING.take();
    if let Some((operation, since)) = caller {
        add(operation, since);
    }
    RUNNING.set(Some((operation, Instant::now())));
    let result = run();
    if let Some((operation, since)) = RUNNING.take() {
        add(operation, since);
    }
    RUNNING.set(caller.map(|(operation, _)| (operation, Instant::now())));
    result
}

fn add(operation: Operation, since: Instant) {
    let spent = since.elapsed().as_nanos() as u64;
    SPENT[operation as usize].fetch_add(spent, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_charged_for_what_it_does_itself() {
        let wait = || std::thread::sleep(Duration::from_millis(20));
        let ((), spent) = profiled(|| {
            timed(Operation::LowRank, || {
                timed(Operation::Product, wait);
                timed(Operation::Product, wait);
            });
        });
        let of = |operation: Operation| spent[operation as usize].1;
        assert!(of(Operation::Product) >= Duration::from_millis(40));
        assert!(of(Operation::LowRank) < of(Operation::Product));
        assert_eq!(spent[Operation::Gate as usize].0, Operation::Gate);
    }
}
