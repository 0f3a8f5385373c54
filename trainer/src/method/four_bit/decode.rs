//! The inner loops of decoding 4 bits: every weight passes through one of them twice a step.
//!
//! A block has only 16 possible values, so a value is one look-up; in bf16 the table is two registers, of which a byte
//! shuffle on x86 looks up 16 values at once. Elsewhere it is one at a time. Both give the same bits.

use half::bf16;

use super::BLOCK;

/// Writes the values of consecutive blocks in bf16; `codes` holds two to a byte, `scales` one for each block, `values_of`
/// what the codes stand for. The scales are finite.
pub(super) fn brain(
    values: &mut [bf16],
    codes: &[u8],
    scales: impl Iterator<Item = f32>,
    values_of: &[f32; 16],
) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as just asked.
        #[expect(unsafe_code, reason = "a function for processors with AVX2")]
        unsafe {
            x86::decode(values, codes, scales, values_of);
        }
        return;
    }
    let blocks = values.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2));
    for ((values, codes), scale) in blocks.zip(scales) {
        look_up(values, codes, &table(scale, values_of).map(bf16::from_bits));
    }
}

/// The possible values of a block, rounded to the nearest, ties to even: what `bf16::from_f32` does to a finite number, in
/// operations that vectorise.
#[inline(always)]
fn table(scale: f32, values_of: &[f32; 16]) -> [u16; 16] {
    values_of.map(|value| {
        let bits = (value * scale).to_bits();
        (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
    })
}

/// The same in fp32.
pub(super) fn single(
    values: &mut [f32],
    codes: &[u8],
    scales: impl Iterator<Item = f32>,
    values_of: &[f32; 16],
) {
    let blocks = values.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2));
    for ((values, codes), scale) in blocks.zip(scales) {
        look_up(values, codes, &values_of.map(|value| value * scale));
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
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_loadu_si128, _mm_packus_epi16, _mm_set1_epi8, _mm_set1_epi16,
        _mm_shuffle_epi8, _mm_srli_epi16, _mm_storeu_si128, _mm_unpackhi_epi8, _mm_unpacklo_epi8,
    };

    use half::bf16;

    use super::{BLOCK, look_up, table};

    /// All blocks in one function, so that nothing between them is a call.
    #[target_feature(enable = "avx2")]
    pub(super) fn decode(
        values: &mut [bf16],
        codes: &[u8],
        scales: impl Iterator<Item = f32>,
        values_of: &[f32; 16],
    ) {
        let blocks = values.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2));
        for ((values, codes), scale) in blocks.zip(scales) {
            let table = table(scale, values_of);
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
    use super::super::Code;
    use super::*;

    #[test]
    fn every_way_gives_the_same_bits_also_in_a_partial_block() {
        let codes: Vec<u8> = (0..80_u32).map(|index| (index * 37 % 256) as u8).collect();
        let scales = [0.037, 1.9, 3e-5];
        let mut values = vec![bf16::ZERO; 157];
        let mut wide = vec![0.0; 157];
        let table = Code::Fp4.values();
        let scales_of = || scales.into_iter();
        brain(&mut values, &codes, scales_of(), table);
        single(&mut wide, &codes, scales_of(), table);
        for (index, (value, wide)) in values.iter().zip(&wide).enumerate() {
            let code = codes[index / 2] >> (4 - 4 * (index % 2)) & 0xf;
            let expected = table[usize::from(code)] * scales[index / BLOCK];
            assert_eq!(wide.to_bits(), expected.to_bits(), "value {index}");
            let expected = bf16::from_f32(expected);
            assert_eq!(value.to_bits(), expected.to_bits(), "value {index}");
        }
    }
}
