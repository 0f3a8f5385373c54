//! How long each kind of operation takes, for benchmarks. Off, it costs the look at one variable of the thread an operation.
//!
//! Times are of the thread that computes a pass, each operation without those that it calls. Nothing is computed otherwise by it.

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// A kind of operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Products with the base's weights, with what adapters add to them and with the decoding of their panels.
    Product,
    /// Decoding 4-bit weights whole, or casting others.
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

thread_local! {
    /// What this thread adds up, while it does.
    static PROFILE: RefCell<Option<Profile>> = const { RefCell::new(None) };
}

/// What `run` returns, and what every operation took on this thread meanwhile, in the order of [`Operation::ALL`].
pub fn profiled<R>(run: impl FnOnce() -> R) -> (R, Vec<(Operation, Duration)>) {
    PROFILE.set(Some(Profile::new(Instant::now())));
    let result = run();
    let spent = PROFILE.take().map_or_else(Vec::new, |profile| {
        Operation::ALL.into_iter().zip(profile.spent).collect()
    });
    (result, spent)
}

/// What `run` returns, its time counted as that of the operation.
pub(crate) fn timed<R>(operation: Operation, run: impl FnOnce() -> R) -> R {
    if PROFILE.with_borrow(Option::is_none) {
        return run();
    }
    charged(|profile| profile.enter(operation, Instant::now()));
    let result = run();
    charged(|profile| profile.leave(Instant::now()));
    result
}

fn charged(change: impl FnOnce(&mut Profile)) {
    PROFILE.with_borrow_mut(|profile| profile.as_mut().map(change));
}

/// Times by operation. It reads no clock.
struct Profile {
    spent: [Duration; Operation::ALL.len()],
    /// What runs, each called by the one before.
    running: Vec<Operation>,
    /// Up to when the last of them is charged.
    since: Instant,
}

impl Profile {
    const fn new(now: Instant) -> Self {
        Self {
            spent: [Duration::ZERO; Operation::ALL.len()],
            running: Vec::new(),
            since: now,
        }
    }

    fn enter(&mut self, operation: Operation, now: Instant) {
        self.charge(now);
        self.running.push(operation);
    }

    fn leave(&mut self, now: Instant) {
        self.charge(now);
        self.running.pop();
    }

    fn charge(&mut self, now: Instant) {
        if let Some(operation) = self.running.last() {
            self.spent[*operation as usize] += now - self.since;
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_charged_for_what_it_does_itself() {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let mut profile = Profile::new(start);
        profile.enter(Operation::LowRank, at(1));
        profile.enter(Operation::Product, at(3));
        profile.leave(at(10));
        profile.enter(Operation::Product, at(11));
        profile.leave(at(15));
        profile.leave(at(20));
        profile.enter(Operation::Gate, at(100));
        profile.leave(at(101));
        let of = |operation: Operation| profile.spent[operation as usize].as_secs();
        assert_eq!(of(Operation::Product), 7 + 4);
        assert_eq!(of(Operation::LowRank), 2 + 1 + 5);
        assert_eq!(of(Operation::Gate), 1);
        assert_eq!(of(Operation::Norm), 0);
    }

    #[test]
    fn what_runs_inside_is_listed_by_operation_and_what_runs_after_it_is_not_kept() {
        let (found, spent) = profiled(|| timed(Operation::Loss, || 7));
        assert_eq!(found, 7);
        let operations: Vec<_> = spent.iter().map(|(operation, _)| *operation).collect();
        assert_eq!(operations, Operation::ALL);
        assert_eq!(timed(Operation::Loss, || 8), 8);
        assert!(PROFILE.with_borrow(Option::is_none));
    }
}
