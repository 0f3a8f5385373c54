//! The inner loops of decoding 4 bits: every weight passes through one of them twice a pass.
//!
//! A block has only 16 possible values, so a value is one look-up. With AVX-512 the table of a block is one register, from which 32
//! values of bf16, or 16 of fp32, are taken at once; with AVX2 two registers of bytes, of which a byte shuffle takes 16; elsewhere
//! it is one at a time. All give the same bits.

use half::bf16;

use super::BLOCK;
#[cfg(target_arch = "x86_64")]
use crate::ops::cpu::instructions::{Instructions, instructions};
use crate::ops::cpu::memory::Element;

/// A type that weights are decoded into.
pub(super) trait Decoded: Element {
    /// Writes the values of consecutive blocks; `codes` holds two to a byte, `scales` one for each block, `values_of` what the
    /// codes stand for. The scales are finite.
    fn decode(values: &mut [Self], codes: &[u8], scales: &[f32], values_of: &[f32; 16]);
}

impl Decoded for bf16 {
    fn decode(values: &mut [Self], codes: &[u8], scales: &[f32], values_of: &[f32; 16]) {
        #[cfg(target_arch = "x86_64")]
        {
            if instructions() == Instructions::Avx512 {
                // SAFETY: the processor has AVX-512, as just asked.
                #[expect(unsafe_code, reason = "a function for processors with AVX-512")]
                unsafe {
                    avx512::brain(values, codes, scales, values_of);
                }
                return;
            }
            if instructions() >= Instructions::Avx2 {
                // SAFETY: the processor has AVX2, as just asked.
                #[expect(unsafe_code, reason = "a function for processors with AVX2")]
                unsafe {
                    avx2::brain(values, codes, scales, values_of);
                }
                return;
            }
        }
        one_by_one(values, codes, scales, |scale| {
            table(scale, values_of).map(Self::from_bits)
        });
    }
}

impl Decoded for f32 {
    fn decode(values: &mut [Self], codes: &[u8], scales: &[f32], values_of: &[f32; 16]) {
        #[cfg(target_arch = "x86_64")]
        if instructions() == Instructions::Avx512 {
            // SAFETY: the processor has AVX-512, as just asked.
            #[expect(unsafe_code, reason = "a function for processors with AVX-512")]
            unsafe {
                avx512::single(values, codes, scales, values_of);
            }
            return;
        }
        one_by_one(values, codes, scales, |scale| {
            values_of.map(|value| value * scale)
        });
    }
}

/// The possible values of a block, rounded to the nearest, ties to even: what `bf16::from_f32` does to a finite number, in
/// operations that vectorise.
#[inline(always)]
fn table(scale: f32, values_of: &[f32; 16]) -> [u16; 16] {
    values_of.map(|value| <bf16 as Element>::round(value * scale).to_bits())
}

/// By the table that `table_of` makes for each scale.
fn one_by_one<T: Copy>(
    values: &mut [T],
    codes: &[u8],
    scales: &[f32],
    table_of: impl Fn(f32) -> [T; 16],
) {
    let blocks = values.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2));
    for ((values, codes), scale) in blocks.zip(scales) {
        look_up(values, codes, &table_of(*scale));
    }
}

fn look_up<T: Copy>(values: &mut [T], codes: &[u8], table: &[T; 16]) {
    for (pair, &byte) in values.chunks_mut(2).zip(codes) {
        pair[0] = table[usize::from(byte >> 4)];
        if let Some(second) = pair.get_mut(1) {
            *second = table[usize::from(byte & 0xf)];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm_loadu_si128, _mm512_add_epi32, _mm512_and_si512, _mm512_broadcast_i64x4,
        _mm512_castps_si512, _mm512_castsi512_si256, _mm512_cvtepi32_epi16, _mm512_cvtepu8_epi32,
        _mm512_cvtepu16_epi32, _mm512_extracti64x4_epi64, _mm512_loadu_ps, _mm512_mul_ps,
        _mm512_or_si512, _mm512_permutexvar_epi16, _mm512_permutexvar_ps, _mm512_set1_epi32,
        _mm512_set1_ps, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_ps,
        _mm512_storeu_si512,
    };

    use half::bf16;

    use super::{BLOCK, look_up, table};

    /// All blocks in one function, so that nothing between them is a call.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn brain(values: &mut [bf16], codes: &[u8], scales: &[f32], values_of: &[f32; 16]) {
        // SAFETY: 16 numbers are there, and the load asks for no alignment.
        #[expect(unsafe_code, reason = "an unaligned load takes a pointer")]
        let all = unsafe { _mm512_loadu_ps(values_of.as_ptr()) };
        let blocks = values.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2));
        for ((values, codes), scale) in blocks.zip(scales) {
            if values.len() < BLOCK {
                look_up(
                    values,
                    codes,
                    &table(*scale, values_of).map(bf16::from_bits),
                );
                continue;
            }
            // To the nearest, ties to even: half a step is added, and of a tie the last bit that stays.
            let bits = _mm512_castps_si512(_mm512_mul_ps(all, _mm512_set1_ps(*scale)));
            let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            // Twice, so that the fifth bit of an index says nothing.
            let table = _mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(rounded));
            let parts = values.as_chunks_mut::<32>().0.iter_mut();
            for (values, codes) in parts.zip(codes.as_chunks::<16>().0) {
                let found = _mm512_permutexvar_epi16(indices(codes), table);
                // SAFETY: 32 values of 16 bits are there, and the store asks for no alignment.
                #[expect(unsafe_code, reason = "an unaligned store takes a pointer")]
                unsafe {
                    _mm512_storeu_si512(values.as_mut_ptr().cast(), found);
                }
            }
        }
    }

    /// The same in fp32.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn single(values: &mut [f32], codes: &[u8], scales: &[f32], values_of: &[f32; 16]) {
        // SAFETY: 16 numbers are there, and the load asks for no alignment.
        #[expect(unsafe_code, reason = "an unaligned load takes a pointer")]
        let all = unsafe { _mm512_loadu_ps(values_of.as_ptr()) };
        let blocks = values.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2));
        for ((values, codes), scale) in blocks.zip(scales) {
            if values.len() < BLOCK {
                look_up(values, codes, &values_of.map(|value| value * scale));
                continue;
            }
            let table = _mm512_mul_ps(all, _mm512_set1_ps(*scale));
            let parts = values.as_chunks_mut::<32>().0.iter_mut();
            for (values, codes) in parts.zip(codes.as_chunks::<16>().0) {
                let indices = indices(codes);
                let halves = [
                    _mm512_castsi512_si256(indices),
                    _mm512_extracti64x4_epi64::<1>(indices),
                ];
                for (values, indices) in values.as_chunks_mut::<16>().0.iter_mut().zip(halves) {
                    let found = _mm512_permutexvar_ps(_mm512_cvtepu16_epi32(indices), table);
                    // SAFETY: 16 numbers are there, and the store asks for no alignment.
                    #[expect(unsafe_code, reason = "an unaligned store takes a pointer")]
                    unsafe {
                        _mm512_storeu_ps(values.as_mut_ptr(), found);
                    }
                }
            }
        }
    }

    /// 16 bytes as 32 indices of 16 bits, of which the low four count: of each byte the high half, then the low one.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn indices(codes: &[u8; 16]) -> __m512i {
        // SAFETY: 16 bytes are there, and the load asks for no alignment.
        #[expect(unsafe_code, reason = "an unaligned load takes a pointer")]
        let codes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
        let wide = _mm512_cvtepu8_epi32(codes);
        _mm512_or_si512(_mm512_srli_epi32::<4>(wide), _mm512_slli_epi32::<16>(wide))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_loadu_si128, _mm_packus_epi16, _mm_set1_epi8, _mm_set1_epi16,
        _mm_shuffle_epi8, _mm_srli_epi16, _mm_storeu_si128, _mm_unpackhi_epi8, _mm_unpacklo_epi8,
    };

    use half::bf16;

    use super::{BLOCK, look_up, table};

    /// All blocks in one function, so that nothing between them is a call.
    #[target_feature(enable = "avx2")]
    pub(super) fn brain(values: &mut [bf16], codes: &[u8], scales: &[f32], values_of: &[f32; 16]) {
        let blocks = values.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2));
        for ((values, codes), scale) in blocks.zip(scales) {
            let table = table(*scale, values_of);
            match (values.try_into(), codes.try_into()) {
                (Ok(values), Ok(codes)) => whole_block(values, codes, &table),
                _ => look_up(values, codes, &table.map(bf16::from_bits)),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn whole_block(values: &mut [bf16; BLOCK], codes: &[u8; BLOCK / 2], table: &[u16; 16]) {
        let (left, right) = (load(&table[..8]), load(&table[8..]));
        let low_byte = _mm_set1_epi16(0xff);
        // Two registers of 16 bytes: the low halves of the table's entries, and the high ones.
        let low = _mm_packus_epi16(
            _mm_and_si128(left, low_byte),
            _mm_and_si128(right, low_byte),
        );
        let high = _mm_packus_epi16(_mm_srli_epi16(left, 8), _mm_srli_epi16(right, 8));
        let nibble = _mm_set1_epi8(0xf);
        let parts = values.as_chunks_mut::<32>().0.iter_mut();
        for (values, codes) in parts.zip(codes.as_chunks::<16>().0) {
            let codes = load(codes);
            let first = _mm_and_si128(_mm_srli_epi16(codes, 4), nibble);
            let second = _mm_and_si128(codes, nibble);
            let in_order = [
                _mm_unpacklo_epi8(first, second),
                _mm_unpackhi_epi8(first, second),
            ];
            for (values, codes) in values.as_chunks_mut::<16>().0.iter_mut().zip(in_order) {
                let (low, high) = (_mm_shuffle_epi8(low, codes), _mm_shuffle_epi8(high, codes));
                let (left, right) = values.split_at_mut(8);
                store(left, _mm_unpacklo_epi8(low, high));
                store(right, _mm_unpackhi_epi8(low, high));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load<T: Copy>(numbers: &[T]) -> __m128i {
        assert_eq!(size_of_val(numbers), 16);
        // SAFETY: 16 bytes are there, and the load asks for no alignment.
        #[expect(unsafe_code, reason = "an unaligned load takes a pointer")]
        unsafe {
            _mm_loadu_si128(numbers.as_ptr().cast())
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(values: &mut [bf16], register: __m128i) {
        assert_eq!(values.len(), 8);
        // SAFETY: 8 values of 16 bits are there, and the store asks for no alignment.
        #[expect(unsafe_code, reason = "an unaligned store takes a pointer")]
        unsafe {
            _mm_storeu_si128(values.as_mut_ptr().cast(), register);
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::Code;
    use super::*;

    type Way<T> = fn(&mut [T], &[u8], &[f32], &[f32; 16]);

    /// All ways that this processor has.
    fn ways() -> (Vec<Way<bf16>>, Vec<Way<f32>>) {
        let mut brain: Vec<Way<bf16>> = vec![
            |values, codes, scales, of| {
                one_by_one(values, codes, scales, |scale| {
                    table(scale, of).map(bf16::from_bits)
                });
            },
            Decoded::decode,
        ];
        let mut single: Vec<Way<f32>> = vec![
            |values, codes, scales, of| {
                one_by_one(values, codes, scales, |scale| of.map(|value| value * scale));
            },
            Decoded::decode,
        ];
        #[cfg(target_arch = "x86_64")]
        #[expect(
            unsafe_code,
            reason = "functions for processors that have their instructions"
        )]
        {
            if instructions() >= Instructions::Avx2 {
                // SAFETY: as just asked.
                brain.push(|values, codes, scales, of| unsafe {
                    avx2::brain(values, codes, scales, of);
                });
            }
            if instructions() == Instructions::Avx512 {
                // SAFETY: as just asked.
                brain.push(|values, codes, scales, of| unsafe {
                    avx512::brain(values, codes, scales, of);
                });
                // SAFETY: as just asked.
                single.push(|values, codes, scales, of| unsafe {
                    avx512::single(values, codes, scales, of);
                });
            }
        }
        (brain, single)
    }

    #[rstest]
    #[case::whole_blocks(192)]
    #[case::a_last_block_of_29(157)]
    #[case::a_last_block_of_63(191)]
    fn every_way_gives_the_same_bits(#[case] length: usize) {
        let codes: Vec<u8> = (0..length.div_ceil(2))
            .map(|index| (index * 37 % 256) as u8)
            .collect();
        let scales = [0.037, 1.9, 3e-5];
        let table = Code::Fp4.values();
        let expected = |index: usize| {
            let code = codes[index / 2] >> (4 - 4 * (index % 2)) & 0xf;
            table[usize::from(code)] * scales[index / BLOCK]
        };
        let (brain, single) = ways();
        for (way, decode) in brain.into_iter().enumerate() {
            let mut values = vec![bf16::NAN; length];
            decode(&mut values, &codes, &scales, table);
            for (index, value) in values.iter().enumerate() {
                let expected = bf16::from_f32(expected(index));
                assert_eq!(
                    value.to_bits(),
                    expected.to_bits(),
                    "way {way}, value {index}"
                );
            }
        }
        for (way, decode) in single.into_iter().enumerate() {
            let mut values = vec![f32::NAN; length];
            decode(&mut values, &codes, &scales, table);
            for (index, value) in values.iter().enumerate() {
                assert_eq!(
                    value.to_bits(),
                    expected(index).to_bits(),
                    "way {way}, value {index}"
                );
            }
        }
    }
}
