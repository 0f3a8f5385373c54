//! Blocks of 256 elements, the `_K` types: groups of 16 or 32 elements have scales of few bits under one half-precision
//! scale d of the whole block, in `Q2_K`, `Q4_K` and `Q5_K` also least values under a second one.
//!
//! An element is (d·scale)·q, less (dmin·least) where there are least values. The layouts are those of
//! `ggml-common.h`, the order of operations that of `ggml-quants.c`.

use super::{blocks, half_at};

const LENGTH: usize = 256;

/// 16 bytes of scale and least value (4 bits each), 64 bytes of codes, d, dmin. Groups of 16.
pub(super) fn q2_k(bytes: &[u8], out: &mut [f32]) {
    blocks::<84, LENGTH>(bytes, out, |block, out| {
        let (scales, codes) = (&block[..16], &block[16..80]);
        let (d, dmin) = (half_at(block, 80), half_at(block, 82));
        for (group, values) in out.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(scales[group] & 0x0f);
            let least = dmin * f32::from(scales[group] >> 4);
            for (value, code) in values.iter_mut().zip(two_bits(codes, group)) {
                *value = scale * f32::from(code) - least;
            }
        }
    });
}

/// 32 bytes of third bits, 64 bytes of the two others, 12 bytes of 6-bit scales less 32, d. Groups of 16. A third bit
/// that is not set takes 4 away.
pub(super) fn q3_k(bytes: &[u8], out: &mut [f32]) {
    blocks::<110, LENGTH>(bytes, out, |block, out| {
        let (third, codes, packed) = (&block[..32], &block[32..96], &block[96..108]);
        let d = half_at(block, 108);
        for (group, values) in out.chunks_exact_mut(16).enumerate() {
            let low = packed[group % 8] >> (4 * (group / 8)) & 0x0f;
            let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
            let scale = d * f32::from((low | high << 4).cast_signed() - 32);
            let third = &third[16 * (group % 2)..];
            let codes = two_bits(codes, group).zip(third);
            for (value, (code, third)) in values.iter_mut().zip(codes) {
                let set = third >> (group / 2) & 1;
                *value = scale * f32::from((code | set << 2).cast_signed() - 4);
            }
        }
    });
}

/// d, dmin, 12 bytes of scales and least values, 128 bytes of codes. Groups of 32.
pub(super) fn q4_k(bytes: &[u8], out: &mut [f32]) {
    blocks::<144, LENGTH>(bytes, out, |block, out| {
        for (group, values) in out.chunks_exact_mut(32).enumerate() {
            let (scale, least) = scale_and_least(block, group);
            for (value, code) in values.iter_mut().zip(four_bits(&block[16..], group)) {
                *value = scale * f32::from(code) - least;
            }
        }
    });
}

/// d, dmin, 12 bytes of scales and least values, 32 bytes of fifth bits, 128 bytes of the others. Groups of 32.
pub(super) fn q5_k(bytes: &[u8], out: &mut [f32]) {
    blocks::<176, LENGTH>(bytes, out, |block, out| {
        for (group, values) in out.chunks_exact_mut(32).enumerate() {
            let (scale, least) = scale_and_least(block, group);
            let codes = four_bits(&block[48..], group).zip(&block[16..48]);
            for (value, (code, fifth)) in values.iter_mut().zip(codes) {
                let code = code | (fifth >> group & 1) << 4;
                *value = scale * f32::from(code) - least;
            }
        }
    });
}

/// 128 bytes of low halves, 64 bytes of two high bits, 16 signed scales, d. Groups of 16; 32 is taken from each code.
pub(super) fn q6_k(bytes: &[u8], out: &mut [f32]) {
    blocks::<210, LENGTH>(bytes, out, |block, out| {
        let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
        let d = half_at(block, 208);
        for (group, values) in out.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(scales[group].cast_signed());
            // Each half of the block has 64 bytes: their low halves come first, then their high ones.
            let (half, within) = (group / 8, group % 8);
            let low = &low[64 * half + 16 * (within % 4)..];
            let shift = 4 * (within / 4);
            let codes = low.iter().zip(two_bits(high, group));
            for (value, (low, high)) in values.iter_mut().zip(codes) {
                let code = low >> shift & 0x0f | high << 4;
                *value = scale * f32::from(code.cast_signed() - 32);
            }
        }
    });
}

/// Scale and least value of a group of 32, as `Q4_K` and `Q5_K` have them: d, dmin, then 6 bits for each number, of which
/// the last four of each kind have their high bits above those of the first four.
fn scale_and_least(block: &[u8], group: usize) -> (f32, f32) {
    let packed = &block[4..16];
    let (scale, least) = if group < 4 {
        (packed[group] & 0x3f, packed[4 + group] & 0x3f)
    } else {
        let low = packed[4 + group];
        (
            low & 0x0f | packed[group - 4] >> 2 & 0x30,
            low >> 4 | packed[group] >> 2 & 0x30,
        )
    };
    (
        half_at(block, 0) * f32::from(scale),
        half_at(block, 2) * f32::from(least),
    )
}

/// Two bits of each element of a group of 16. Each half of the block has 32 bytes, whose lowest bits come first.
fn two_bits(bytes: &[u8], group: usize) -> impl Iterator<Item = u8> {
    let (half, run) = (group / 8, group % 8 / 2);
    let bytes = &bytes[32 * half + 16 * (group % 2)..];
    bytes.iter().map(move |byte| byte >> (2 * run) & 3)
}

/// Four bits of each element of a group of 32. Each quarter of the block has 32 bytes, whose low halves come first.
fn four_bits(bytes: &[u8], group: usize) -> impl Iterator<Item = u8> {
    let bytes = &bytes[32 * (group / 2)..];
    bytes
        .iter()
        .map(move |byte| byte >> (4 * (group % 2)) & 0x0f)
}
