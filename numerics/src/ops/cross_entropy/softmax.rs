//! The softmax of one row of logits, in place, and what the loss and its gradient take of it. The row is walked a few times while
//! it lies in the core's own cache.
#![expect(
    clippy::needless_range_loop,
    reason = "of iterators here the compiler would make calls without the instructions"
)]

use crate::ops::cpu::lanes::{Lanes, MOST_LANES, exp, tanh};

/// A row's softmax: p = e^(c·(x - largest)) / sum. Without a cap x is the logit and c is 1; with cap c, x is tanh(logit / c), whose
/// greatest belongs to the greatest logit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Softmax {
    cap: Option<f32>,
    largest: f32,
    sum: f64,
    /// -log p of the target.
    pub(super) loss: f64,
    /// Whether the target has the greatest logit; of equal ones the first counts.
    pub(super) is_likeliest: bool,
}

impl Softmax {
    /// Of a row of logits, over which what [`Self::gradient`] needs is written.
    #[inline(always)]
    pub(super) fn of<L: Lanes>(row: &mut [f32], target: usize, cap: Option<f32>) -> Self {
        if let Some(cap) = cap {
            let each = Capped {
                inverse: L::splat(1.0 / cap),
            };
            pass::<L, _, true>(row, &each);
        }
        let largest = largest::<L>(row);
        let picked = row[target];
        let mut is_likeliest = picked >= largest;
        if is_likeliest {
            for at in 0..target {
                is_likeliest &= row[at] < largest;
            }
        }
        let powers = Powers {
            factor: L::splat(cap.unwrap_or(1.0)),
            largest: L::splat(largest),
        };
        let sum = match cap {
            None => pass::<L, _, true>(row, &powers),
            Some(_) => pass::<L, _, false>(row, &powers),
        };
        let distance = f64::from(largest) - f64::from(picked);
        Self {
            cap,
            largest,
            sum,
            loss: sum.ln() + f64::from(cap.unwrap_or(1.0)) * distance,
            is_likeliest,
        }
    }

    /// Writes scale·(p - one-hot(target)), times 1 - x² with a cap, over the row.
    #[inline(always)]
    pub(super) fn gradient<L: Lanes>(&self, row: &mut [f32], target: usize, scale: f32) {
        let factor = L::splat((f64::from(scale) / self.sum) as f32);
        match self.cap {
            None => {
                pass::<L, _, true>(row, &Times { factor });
                row[target] -= scale;
            }
            Some(cap) => {
                let slope = 1.0 - row[target] * row[target];
                let powers = Powers {
                    factor: L::splat(cap),
                    largest: L::splat(self.largest),
                };
                pass::<L, _, true>(row, &Sloped { powers, factor });
                row[target] -= scale * slope;
            }
        }
    }
}

/// What is made of each number of a row.
trait Each<L> {
    fn of(&self, x: L) -> L;
}

/// tanh(x / cap).
struct Capped<L> {
    inverse: L,
}

impl<L: Lanes> Each<L> for Capped<L> {
    #[inline(always)]
    fn of(&self, x: L) -> L {
        tanh(x.times(self.inverse))
    }
}

/// e^(factor·(x - largest)).
struct Powers<L> {
    factor: L,
    largest: L,
}

impl<L: Lanes> Each<L> for Powers<L> {
    #[inline(always)]
    fn of(&self, x: L) -> L {
        exp(x.minus(self.largest).times(self.factor))
    }
}

/// x·factor.
struct Times<L> {
    factor: L,
}

impl<L: Lanes> Each<L> for Times<L> {
    #[inline(always)]
    fn of(&self, x: L) -> L {
        x.times(self.factor)
    }
}

/// Powers times factor·(1 - x²).
struct Sloped<L> {
    powers: Powers<L>,
    factor: L,
}

impl<L: Lanes> Each<L> for Sloped<L> {
    #[inline(always)]
    fn of(&self, x: L) -> L {
        let slope = L::splat(1.0).minus(x.times(x));
        self.powers.of(x).times(self.factor).times(slope)
    }
}

/// The sum of what is made of the numbers; with `WRITES`, these are written over them.
#[inline(always)]
fn pass<L: Lanes, E: Each<L>, const WRITES: bool>(row: &mut [f32], each: &E) -> f64 {
    let whole = row.len() / L::COUNT * L::COUNT;
    let mut sums = L::splat(0.0);
    for at in (0..whole).step_by(L::COUNT) {
        let found = each.of(L::of(row, at));
        if WRITES {
            found.write(row, at);
        }
        sums = sums.plus(found);
    }
    let mut lanes = [0.0; MOST_LANES];
    sums.write(&mut lanes, 0);
    let mut total = 0.0;
    for lane in lanes {
        total += f64::from(lane);
    }
    let rest = &mut row[whole..];
    let mut last = [0.0; MOST_LANES];
    last[..rest.len()].copy_from_slice(rest);
    each.of(L::of(&last, 0)).write(&mut last, 0);
    for at in 0..rest.len() {
        if WRITES {
            rest[at] = last[at];
        }
        total += f64::from(last[at]);
    }
    total
}

#[inline(always)]
fn largest<L: Lanes>(row: &[f32]) -> f32 {
    /// Registers that are compared at a time: one comparison waits for the one before it.
    const AT_A_TIME: usize = 4;
    let step = AT_A_TIME * L::COUNT;
    let whole = row.len() / step * step;
    let mut most = [L::splat(f32::NEG_INFINITY); AT_A_TIME];
    for start in (0..whole).step_by(step) {
        for part in 0..AT_A_TIME {
            most[part] = L::of(row, start + part * L::COUNT).max(most[part]);
        }
    }
    let mut lanes = [f32::NEG_INFINITY; MOST_LANES];
    most[0]
        .max(most[1])
        .max(most[2].max(most[3]))
        .write(&mut lanes, 0);
    let mut largest = f32::NEG_INFINITY;
    for lane in lanes {
        largest = largest.max(lane);
    }
    for at in whole..row.len() {
        largest = largest.max(row[at]);
    }
    largest
}
