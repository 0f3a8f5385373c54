//! The learning rate of a step, as transformers' `get_scheduler` computes it.

use std::f64::consts::PI;

/// How the learning rate goes down after its peak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Schedule {
    /// Half a cosine down to 0.
    Cosine,
    /// A line down to 0.
    Linear,
    /// Not at all.
    Constant,
}

/// The learning rate that optimiser step `step` (from 0) of `total` uses: rising from 0 over `warmup` steps to `peak`, then
/// as the schedule says. With a warm-up, step 0 has learning rate 0.
pub fn learning_rate(schedule: Schedule, peak: f64, step: u64, warmup: u64, total: u64) -> f64 {
    if step < warmup {
        return peak * step as f64 / warmup as f64;
    }
    let after = total.saturating_sub(warmup).max(1) as f64;
    let done = (step - warmup) as f64 / after;
    let factor = match schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => (1.0 - done).max(0.0),
        Schedule::Cosine => (0.5 * (1.0 + (PI * done).cos())).max(0.0),
    };
    peak * factor
}
