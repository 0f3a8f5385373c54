//! Loops over rows, compiled once for each width of a processor's registers, and spread over threads.
//!
//! Each row is computed by itself and in one fixed order, and how rows are cut into parts depends on their shape alone. So a result
//! depends neither on the number of threads nor, since nothing is contracted into fused multiply-adds, on the width taken.

#[cfg(target_arch = "x86_64")]
use super::instructions::{Instructions, instructions};
use super::threads;

/// The numbers of a part: some ten microseconds of a loop, several times what it costs to hand it to another thread.
const NUMBERS_PER_PART: usize = 1 << 15;

/// A loop. Implementations mark `run` as `#[inline(always)]`, so that it is compiled into its caller with that one's
/// instruction set.
pub(crate) trait Kernel {
    /// Runs the loop.
    fn run(self);
}

/// Runs the loop with the widest instructions of this processor.
pub(crate) fn run(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    match instructions() {
        // SAFETY: the processor has these instructions, as just asked.
        #[expect(unsafe_code, reason = "a function for processors with AVX-512")]
        Instructions::Avx512 => unsafe { run_avx512(kernel) },
        // SAFETY: the processor has AVX2, as just asked.
        #[expect(unsafe_code, reason = "a function for processors with AVX2")]
        Instructions::Avx2 => unsafe { run_avx2(kernel) },
        Instructions::Any => kernel.run(),
    }
    #[cfg(not(target_arch = "x86_64"))]
    kernel.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512(kernel: impl Kernel) {
    kernel.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2(kernel: impl Kernel) {
    kernel.run();
}

/// The rows of `width` numbers that make a part.
pub(crate) fn rows_per_part(width: usize) -> usize {
    (NUMBERS_PER_PART / width.max(1)).max(1)
}

/// Runs every kernel once, spread over libtorch's threads.
pub(crate) fn run_all<K: Kernel + Send>(kernels: Vec<K>) {
    threads::run_all(kernels, run);
}

/// e^x to within two units in the last place, in operations that vectorise; below e^-87 it stays there.
#[inline(always)]
#[expect(
    clippy::manual_clamp,
    reason = "max and min are one instruction each; clamp branches, and keeps NaN"
)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 x 2^23 rounds to the nearest integer, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.max(-87.0).min(88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let power = shifted - ROUND;
    let r = x - power * LN2_HIGH - power * LN2_LOW; // |r| <= ln 2 / 2
    let mut sum = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * r + coefficient;
    }
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    sum * f32::from_bits(((exponent + 127) << 23) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        for step in -8700..8800 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(error < 2.4e-7, "exp({x}) is off by {error:e}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }
}
