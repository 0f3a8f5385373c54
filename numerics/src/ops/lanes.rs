//! Vectors of fp32 as wide as the processor's registers, for loops that the compiler does not vectorise well by itself.
//!
//! A loop is written once over [`Lanes`] and compiled for each width; [`run`] takes the widest that the processor has. Products are
//! fused with their sums where there is an instruction for it, so that the last bit of a result may differ from one kind of
//! processor to the next, as it does in libtorch's own products. How lanes are summed is the loop's business.
#![expect(unsafe_code, reason = "the instructions of one processor or another")]

/// A loop over lanes. Implementations mark `run` as `#[inline(always)]`, so that it is compiled into a function that has the
/// instructions.
pub(super) trait LanesKernel {
    /// Runs the loop.
    fn run<L: Lanes>(self);
}

/// Runs the loop with the widest lanes of this processor.
pub(super) fn run(kernel: impl LanesKernel) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected;
        if super::kernel::has_avx512() {
            // SAFETY: the processor has these instructions, as just asked.
            unsafe { x86::run_avx512(kernel) }
            return;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has these instructions, as just asked.
            unsafe { x86::run_avx2(kernel) }
            return;
        }
    }
    kernel.run::<Portable>();
}

/// So many numbers of fp32, with which one operation computes at once. Values are made by [`run`]'s loops only.
pub(super) trait Lanes: Copy {
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

    /// 2 to the power of self, whole numbers from -126 to 127.
    fn power_of_two(self) -> Self;

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
pub(super) fn exp<L: Lanes>(x: L) -> L {
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
pub(super) fn tanh<L: Lanes>(x: L) -> L {
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

/// Lanes for any processor, which the compiler maps to what there is.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn of_each(make: impl Fn(usize) -> f32) -> Self {
        Self(std::array::from_fn(make))
    }
}

impl Lanes for Portable {
    const COUNT: usize = 8;

    #[inline(always)]
    fn splat(number: f32) -> Self {
        Self([number; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of numbers needs no other alignment than a number.
        Self(unsafe { from.cast::<[f32; 8]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; 8]>().write(self.0) }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane] + other.0[lane])
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane] - other.0[lane])
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane] * other.0[lane])
    }

    #[inline(always)]
    fn over(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane] / other.0[lane])
    }

    #[inline(always)]
    fn times_plus(self, factor: Self, sum: Self) -> Self {
        Self::of_each(|lane| self.0[lane] * factor.0[lane] + sum.0[lane])
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane].max(other.0[lane]))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane].min(other.0[lane]))
    }

    #[inline(always)]
    fn if_below(self, limit: Self, one: Self, other: Self) -> Self {
        Self::of_each(|lane| match self.0[lane] < limit.0[lane] {
            true => one.0[lane],
            false => other.0[lane],
        })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self::of_each(|lane| f32::from_bits(((self.0[lane] as i32 + 127) << 23) as u32))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _CMP_LT_OQ, _mm256_add_epi32, _mm256_add_ps, _mm256_blendv_ps,
        _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cvtps_epi32, _mm256_div_ps, _mm256_fmadd_ps,
        _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_set1_epi32,
        _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_sub_ps, _mm512_add_epi32,
        _mm512_add_ps, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtps_epi32, _mm512_div_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_blend_ps, _mm512_max_ps, _mm512_min_ps,
        _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps,
        _mm512_sub_ps,
    };

    use super::{Lanes, LanesKernel};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn run_avx512(kernel: impl LanesKernel) {
        kernel.run::<Avx512>();
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn run_avx2(kernel: impl LanesKernel) {
        kernel.run::<Avx2>();
    }

    /// 16 lanes of a processor with AVX-512.
    #[derive(Clone, Copy)]
    struct Avx512(__m512);

    /// 8 lanes of a processor with AVX2 and FMA.
    #[derive(Clone, Copy)]
    struct Avx2(__m256);

    /// The operations that are one instruction for both widths.
    ///
    /// SAFETY, of all of them: lanes are made in the loops that `run_avx512` and `run_avx2` run, which are called on processors
    /// with these instructions.
    macro_rules! single_instructions {
        ($($name:ident($($argument:ident),*) = $instruction:ident($($given:ident),*);)*) => {
            $(
                #[inline(always)]
                fn $name(self $(, $argument: Self)*) -> Self {
                    let own = self;
                    // SAFETY: said at the macro.
                    Self(unsafe { $instruction(own.0 $(, $given.0)*) })
                }
            )*
        };
    }

    impl Lanes for Avx512 {
        const COUNT: usize = 16;

        single_instructions! {
            plus(other) = _mm512_add_ps(other);
            minus(other) = _mm512_sub_ps(other);
            times(other) = _mm512_mul_ps(other);
            over(other) = _mm512_div_ps(other);
            times_plus(factor, sum) = _mm512_fmadd_ps(factor, sum);
            max(other) = _mm512_max_ps(other);
            min(other) = _mm512_min_ps(other);
        }

        #[inline(always)]
        fn splat(number: f32) -> Self {
            // SAFETY: as said at the macro.
            Self(unsafe { _mm512_set1_ps(number) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise.
            Self(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        fn if_below(self, limit: Self, one: Self, other: Self) -> Self {
            // SAFETY: as said at the macro.
            unsafe {
                let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, limit.0);
                Self(_mm512_mask_blend_ps(below, other.0, one.0))
            }
        }

        #[inline(always)]
        fn power_of_two(self) -> Self {
            // SAFETY: as said at the macro.
            unsafe {
                let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
            }
        }
    }

    impl Lanes for Avx2 {
        const COUNT: usize = 8;

        single_instructions! {
            plus(other) = _mm256_add_ps(other);
            minus(other) = _mm256_sub_ps(other);
            times(other) = _mm256_mul_ps(other);
            over(other) = _mm256_div_ps(other);
            times_plus(factor, sum) = _mm256_fmadd_ps(factor, sum);
            max(other) = _mm256_max_ps(other);
            min(other) = _mm256_min_ps(other);
        }

        #[inline(always)]
        fn splat(number: f32) -> Self {
            // SAFETY: as said at the macro.
            Self(unsafe { _mm256_set1_ps(number) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise.
            Self(unsafe { _mm256_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        fn if_below(self, limit: Self, one: Self, other: Self) -> Self {
            // SAFETY: as said at the macro.
            unsafe {
                let below = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, limit.0);
                Self(_mm256_blendv_ps(other.0, one.0, below))
            }
        }

        #[inline(always)]
        fn power_of_two(self) -> Self {
            // SAFETY: as said at the macro.
            unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
                Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
            }
        }
    }
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
