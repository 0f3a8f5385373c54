//! Lanes of processors with AVX2 and FMA.
//!
//! SAFETY, of all operations: lanes are made in the loops that `run` compiles, and it is called on processors with these
//! instructions alone.

use std::arch::x86_64::{
    __m256, _CMP_LT_OQ, _mm_add_ps, _mm_add_ss, _mm_cvtsi32_si128, _mm_cvtss_f32, _mm_movehdup_ps,
    _mm_movehl_ps, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256, _mm256_blendv_ps,
    _mm256_castpd_ps, _mm256_castps_pd, _mm256_castps_si256, _mm256_castps256_ps128,
    _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cvtepu8_epi64, _mm256_cvtps_epi32, _mm256_div_ps,
    _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps,
    _mm256_mul_ps, _mm256_or_si256, _mm256_permute2f128_ps, _mm256_permutevar8x32_ps,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_slli_epi64,
    _mm256_srli_epi32, _mm256_srli_epi64, _mm256_storeu_ps, _mm256_sub_ps, _mm256_unpackhi_pd,
    _mm256_unpackhi_ps, _mm256_unpacklo_pd, _mm256_unpacklo_ps,
};

use super::{Lanes, LanesKernel, single_instructions};

#[target_feature(enable = "avx2,fma")]
pub(super) fn run(kernel: impl LanesKernel) {
    kernel.run::<Avx2>();
}

/// 8 lanes of a processor with AVX2 and FMA.
#[derive(Clone, Copy)]
struct Avx2(__m256);

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
        // SAFETY: as said at the head of this file.
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
        // SAFETY: as said at the head of this file.
        unsafe {
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, limit.0);
            Self(_mm256_blendv_ps(other.0, one.0, below))
        }
    }

    #[inline(always)]
    fn total(self) -> f32 {
        // SAFETY: as said at the head of this file.
        unsafe {
            let halves = _mm_add_ps(
                _mm256_castps256_ps128(self.0),
                _mm256_extractf128_ps::<1>(self.0),
            );
            let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
        }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: as said at the head of this file.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    /// The first eight numbers, and the others.
    type Table = [__m256; 2];

    #[inline(always)]
    fn table(numbers: &[f32; 16], scale: f32, rounded: bool) -> [__m256; 2] {
        // SAFETY: 16 numbers are there; else as said at the head of this file.
        unsafe {
            let mut halves = [_mm256_setzero_ps(); 2];
            for (half, table) in halves.iter_mut().enumerate() {
                let numbers = _mm256_loadu_ps(numbers.as_ptr().add(8 * half));
                *table = _mm256_mul_ps(numbers, _mm256_set1_ps(scale));
                if rounded {
                    // Half a step is added, and of a tie the last bit that stays.
                    let bits = _mm256_castps_si256(*table);
                    let one = _mm256_set1_epi32(1);
                    let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), one);
                    let half = _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff));
                    let kept = _mm256_set1_epi32(0xffff_0000_u32 as i32);
                    let sum = _mm256_and_si256(_mm256_add_epi32(bits, half), kept);
                    *table = _mm256_castsi256_ps(sum);
                }
            }
            halves
        }
    }

    #[inline(always)]
    unsafe fn look_up(table: &[__m256; 2], indices: *const u8, to: *mut f32) {
        for part in 0..2 {
            // SAFETY: the caller's promise.
            unsafe {
                let four = indices.add(4 * part).cast::<i32>().read_unaligned();
                let bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
                // Of an index the low three bits count, and the fourth says in which half of the table.
                let high = _mm256_srli_epi64::<4>(bytes);
                let indices = _mm256_or_si256(high, _mm256_slli_epi64::<32>(bytes));
                let first = _mm256_permutevar8x32_ps(table[0], indices);
                let second = _mm256_permutevar8x32_ps(table[1], indices);
                let fourth = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(indices));
                _mm256_storeu_ps(to.add(8 * part), _mm256_blendv_ps(first, second, fourth));
            }
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            // By index: closures would be calls without the instructions.
            let mut twos = [_mm256_setzero_ps(); 8];
            for at in (0..8).step_by(2) {
                let first = _mm256_loadu_ps(from.add(at * from_stride));
                let second = _mm256_loadu_ps(from.add((at + 1) * from_stride));
                twos[at] = _mm256_unpacklo_ps(first, second);
                twos[at + 1] = _mm256_unpackhi_ps(first, second);
            }
            // Of each four rows, what stands in a column is brought together.
            let mut fours = [_mm256_setzero_ps(); 8];
            for at in (0..8).step_by(4) {
                for half in 0..2 {
                    let low = _mm256_castps_pd(twos[at + half]);
                    let high = _mm256_castps_pd(twos[at + half + 2]);
                    fours[at + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
                    fours[at + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
                }
            }
            for of in 0..4 {
                let (first, second) = (fours[of], fours[of + 4]);
                let low = _mm256_permute2f128_ps::<0x20>(first, second);
                let high = _mm256_permute2f128_ps::<0x31>(first, second);
                _mm256_storeu_ps(to.add(of * to_stride), low);
                _mm256_storeu_ps(to.add((4 + of) * to_stride), high);
            }
        }
    }
}
