//! Vectors of fp32 as wide as the processor's registers, for loops that the compiler does not vectorise well by itself.
//!
//! A loop is written once over [`Lanes`] and compiled for each width; [`run`] takes the widest that the processor has. Products are
//! fused with their sums where there is an instruction for it, so that the last bit of a result may differ from one kind of
//! processor to the next, as it does in libtorch's own products. How lanes are summed is the loop's business.
#![expect(unsafe_code, reason = "the instructions of one processor or another")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

pub(crate) use portable::Portable;

use super::instructions::{Instructions, instructions};

/// The operations that are one instruction of a processor.
#[cfg(target_arch = "x86_64")]
macro_rules! single_instructions {
    ($($name:ident($($argument:ident),*) = $instruction:ident($($given:ident),*);)*) => {
        $(
            #[inline(always)]
            fn $name(self $(, $argument: Self)*) -> Self {
                let own = self;
                // SAFETY: said at the head of the file that expands this.
                Self(unsafe { $instruction(own.0 $(, $given.0)*) })
            }
        )*
    };
}

#[cfg(target_arch = "x86_64")]
use single_instructions;

/// A loop over lanes. Implementations mark `run` as `#[inline(always)]`, so that it is compiled into a function that has the
/// instructions.
pub(crate) trait LanesKernel {
    /// Runs the loop.
    fn run<L: Lanes>(self);
}

/// Whether this processor has wide lanes that multiply and add at once: without, products are better made by libtorch.
pub(crate) fn are_wide() -> bool {
    instructions() > Instructions::Any
}

/// How many lanes [`run`]'s loops have on this processor.
pub(crate) fn count() -> usize {
    struct Count<'a>(&'a mut usize);

    impl LanesKernel for Count<'_> {
        #[inline(always)]
        fn run<L: Lanes>(self) {
            *self.0 = L::COUNT;
        }
    }

    let mut count = 0;
    run(Count(&mut count));
    count
}

/// Runs the loop with the widest lanes of this processor.
pub(crate) fn run(kernel: impl LanesKernel) {
    match instructions() {
        // SAFETY: the processor has these instructions, as just asked.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => unsafe { avx512::run(kernel) },
        // SAFETY: the processor has these instructions, as just asked.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { avx2::run(kernel) },
        #[cfg(not(target_arch = "x86_64"))]
        Instructions::Avx512 | Instructions::Avx2 => kernel.run::<Portable>(),
        Instructions::Any => kernel.run::<Portable>(),
    }
}

/// The most lanes that there are.
pub(crate) const MOST_LANES: usize = 16;

/// So many numbers of fp32, with which one operation computes at once. Values are made by [`run`]'s loops only.
pub(crate) trait Lanes: Copy {
    /// How many: 8 or 16.
    const COUNT: usize;

    /// One number in all lanes.
    fn splat(number: f32) -> Self;

    /// The numbers from this place on.
    ///
    /// # Safety
    ///
    /// `COUNT` numbers can be read there.
    unsafe fn load(from: *const f32) -> Self;

    /// Writes the numbers from this place on.
    ///
    /// # Safety
    ///
    /// `COUNT` numbers can be written there.
    unsafe fn store(self, to: *mut f32);

    /// self + other.
    fn plus(self, other: Self) -> Self;

    /// self - other.
    fn minus(self, other: Self) -> Self;

    /// self · other.
    fn times(self, other: Self) -> Self;

    /// self / other.
    fn over(self, other: Self) -> Self;

    /// self · factor + sum.
    fn times_plus(self, factor: Self, sum: Self) -> Self;

    /// The greater of each two.
    fn max(self, other: Self) -> Self;

    /// The lesser of each two.
    fn min(self, other: Self) -> Self;

    /// `one` where self < limit, else `other`.
    fn if_below(self, limit: Self, one: Self, other: Self) -> Self;

    /// The sum of the lanes.
    fn total(self) -> f32;

    /// 2 to the power of self, whole numbers from -126 to 127.
    fn power_of_two(self) -> Self;

    /// 16 numbers that are looked up by indices of 4 bits.
    type Table: Copy;

    /// The numbers as a table, each times `scale`; where it is asked for, rounded to the nearest bfloat16, ties to even.
    fn table(numbers: &[f32; 16], scale: f32, rounded: bool) -> Self::Table;

    /// Writes 16 numbers of the table: those of the halves of 8 bytes, the high half of each first.
    ///
    /// # Safety
    ///
    /// 8 bytes can be read at `indices`, and 16 numbers written at `to`.
    unsafe fn look_up(table: &Self::Table, indices: *const u8, to: *mut f32);

    /// Writes `COUNT` rows of as many numbers, transposed. Rows lie `from_stride` and `to_stride` numbers apart. No bit of a number
    /// changes, whatever it is.
    ///
    /// # Safety
    ///
    /// The numbers can be read and written there, and none is both.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

    /// The numbers of the slice from `start` on.
    #[inline(always)]
    fn of(numbers: &[f32], start: usize) -> Self {
        let numbers = &numbers[start..start + Self::COUNT];
        // SAFETY: so many numbers are there.
        unsafe { Self::load(numbers.as_ptr()) }
    }

    /// Writes the numbers into the slice from `start` on.
    #[inline(always)]
    fn write(self, numbers: &mut [f32], start: usize) {
        let numbers = &mut numbers[start..start + Self::COUNT];
        // SAFETY: there is room for so many numbers.
        unsafe { self.store(numbers.as_mut_ptr()) }
    }
}

/// e^x to within two units in the last place; 0 below e^-87, and above e^88 it stays there.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(x: L) -> L {
    // Adding 1.5 x 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let lowest = L::splat(-87.0);
    let clamped = x.max(lowest).min(L::splat(88.0));
    let round = L::splat(ROUND);
    let power = clamped
        .times_plus(L::splat(std::f32::consts::LOG2_E), round)
        .minus(round);
    let r = power.times_plus(L::splat(-LN2_HIGH), clamped);
    let r = power.times_plus(L::splat(-LN2_LOW), r); // |r| <= ln 2 / 2
    let mut sum = L::splat(1.0 / 5040.0);
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum.times_plus(r, L::splat(coefficient));
    }
    let zero = L::splat(0.0);
    x.if_below(lowest, zero, sum.times(power.power_of_two()))
}

/// tanh(x) to within a few units in the last place.
#[inline(always)]
pub(crate) fn tanh<L: Lanes>(x: L) -> L {
    let (one, two) = (L::splat(1.0), L::splat(2.0));
    // (e^2x - 1) / (e^2x + 1) loses its first digits where x is small; there the series has them.
    let squared = exp(x.times(two));
    let far = squared.minus(one).over(squared.plus(one));
    let square = x.times(x);
    let mut series = L::splat(62.0 / 2835.0);
    for coefficient in [-17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0] {
        series = series.times_plus(square, L::splat(coefficient));
    }
    square.if_below(L::splat(0.04), x.times(series), far)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies a function of lanes to numbers, with the lanes that [`run`] takes or with those for any processor.
    struct Each<'a, F> {
        numbers: &'a mut [f32],
        function: F,
    }

    trait OfLanes {
        fn apply<L: Lanes>(&self, x: L) -> L;
    }

    impl<F: OfLanes> LanesKernel for Each<'_, F> {
        #[inline(always)]
        fn run<L: Lanes>(self) {
            for start in (0..self.numbers.len()).step_by(L::COUNT) {
                let x = L::of(self.numbers, start);
                self.function.apply(x).write(self.numbers, start);
            }
        }
    }

    #[derive(Clone, Copy)]
    struct Exp;

    impl OfLanes for Exp {
        #[inline(always)]
        fn apply<L: Lanes>(&self, x: L) -> L {
            exp(x)
        }
    }

    #[derive(Clone, Copy)]
    struct Tanh;

    impl OfLanes for Tanh {
        #[inline(always)]
        fn apply<L: Lanes>(&self, x: L) -> L {
            tanh(x)
        }
    }

    /// What both kinds of lanes make of these numbers.
    fn both<F: OfLanes + Copy>(numbers: &[f32], function: F) -> [Vec<f32>; 2] {
        let (mut widest, mut portable) = (numbers.to_vec(), numbers.to_vec());
        run(Each {
            numbers: &mut widest,
            function,
        });
        let numbers = &mut portable;
        Each { numbers, function }.run::<Portable>();
        [widest, portable]
    }

    #[test]
    fn exp_is_within_two_units_of_the_last_place_and_0_where_it_is_next_to_nothing() {
        let numbers: Vec<f32> = (-8_704..8_800).map(|step| step as f32 / 100.0).collect();
        for found in both(&numbers, Exp) {
            for (x, found) in numbers.iter().zip(found) {
                let exact = f64::from(*x).exp();
                let expected = if *x < -87.0 { 0.0 } else { exact };
                let off = (f64::from(found) - expected).abs();
                assert!(off <= 2.4e-7 * expected, "exp({x}) is {found}");
            }
        }
    }

    #[test]
    fn tanh_is_within_units_of_the_last_place_also_next_to_0() {
        let numbers: Vec<f32> = (-3_200..3_200)
            .flat_map(|step| [step as f32 / 200.0, step as f32 / 2e6])
            .collect();
        for found in both(&numbers, Tanh) {
            for (x, found) in numbers.iter().zip(found) {
                let expected = f64::from(*x).tanh();
                let off = (f64::from(found) - expected).abs();
                assert!(off <= 1e-6 * expected.abs(), "tanh({x}) is {found}");
            }
        }
    }
}
