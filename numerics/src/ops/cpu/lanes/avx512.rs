//! Lanes of processors with AVX-512.
//!
//! SAFETY, of all operations: lanes are made in the loops that `run` compiles, and it is called on processors with these
//! instructions alone.

use std::arch::x86_64::{
    __m512, _CMP_LT_OQ, _mm_loadl_epi64, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512,
    _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cmp_ps_mask, _mm512_cvtepu8_epi64, _mm512_cvtps_epi32, _mm512_div_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mask_blend_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
    _mm512_or_si512, _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_slli_epi64,
    _mm512_srli_epi32, _mm512_srli_epi64, _mm512_storeu_ps, _mm512_sub_ps, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use super::{Lanes, LanesKernel, single_instructions};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn run(kernel: impl LanesKernel) {
    kernel.run::<Avx512>();
}

/// 16 lanes of a processor with AVX-512.
#[derive(Clone, Copy)]
struct Avx512(__m512);

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
        // SAFETY: as said at the head of this file.
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
        // SAFETY: as said at the head of this file.
        unsafe {
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, limit.0);
            Self(_mm512_mask_blend_ps(below, other.0, one.0))
        }
    }

    #[inline(always)]
    fn total(self) -> f32 {
        // SAFETY: as said at the head of this file.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: as said at the head of this file.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
        }
    }

    type Table = __m512;

    #[inline(always)]
    fn table(numbers: &[f32; 16], scale: f32, rounded: bool) -> __m512 {
        // SAFETY: 16 numbers are there; else as said at the head of this file.
        unsafe {
            let table = _mm512_mul_ps(_mm512_loadu_ps(numbers.as_ptr()), _mm512_set1_ps(scale));
            if !rounded {
                return table;
            }
            // Half a step is added, and of a tie the last bit that stays.
            let bits = _mm512_castps_si512(table);
            let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff));
            let kept = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(_mm512_add_epi32(bits, half), kept))
        }
    }

    #[inline(always)]
    unsafe fn look_up(table: &__m512, indices: *const u8, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64(indices.cast()));
            // Of an index the low four bits count.
            let (high, low) = (
                _mm512_srli_epi64::<4>(bytes),
                _mm512_slli_epi64::<32>(bytes),
            );
            let found = _mm512_permutexvar_ps(_mm512_or_si512(high, low), *table);
            _mm512_storeu_ps(to, found);
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            // By index: closures would be calls without the instructions.
            let mut twos = [_mm512_setzero_ps(); 16];
            for at in (0..16).step_by(2) {
                let first = _mm512_loadu_ps(from.add(at * from_stride));
                let second = _mm512_loadu_ps(from.add((at + 1) * from_stride));
                twos[at] = _mm512_unpacklo_ps(first, second);
                twos[at + 1] = _mm512_unpackhi_ps(first, second);
            }
            // Of each four rows, what stands in a column is brought together.
            let mut fours = [_mm512_setzero_ps(); 16];
            for at in (0..16).step_by(4) {
                for half in 0..2 {
                    let low = _mm512_castps_pd(twos[at + half]);
                    let high = _mm512_castps_pd(twos[at + half + 2]);
                    fours[at + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                    fours[at + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
                }
            }
            // Number `of` of the fours has in its quarter q the column 4·q + of of four rows.
            for of in 0..4 {
                let (first, second) = (fours[of], fours[of + 4]);
                let (third, fourth) = (fours[of + 8], fours[of + 12]);
                let even = _mm512_shuffle_f32x4::<0x88>(first, second);
                let even_rest = _mm512_shuffle_f32x4::<0x88>(third, fourth);
                let odd = _mm512_shuffle_f32x4::<0xdd>(first, second);
                let odd_rest = _mm512_shuffle_f32x4::<0xdd>(third, fourth);
                let columns = [
                    _mm512_shuffle_f32x4::<0x88>(even, even_rest),
                    _mm512_shuffle_f32x4::<0x88>(odd, odd_rest),
                    _mm512_shuffle_f32x4::<0xdd>(even, even_rest),
                    _mm512_shuffle_f32x4::<0xdd>(odd, odd_rest),
                ];
                for (quarter, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(to.add((4 * quarter + of) * to_stride), column);
                }
            }
        }
    }
}
