//! Blocks of 32 elements under one half-precision scale d, in the types that end in 1 also over a least value m.
//!
//! `Q8_0` d·q; `Q4_0` d·(q − 8); `Q4_1` d·q + m; `Q5_0` d·(q − 16); `Q5_1` d·q + m. In the 4- and 5-bit types the low
//! halves of the 16 bytes are elements 0..16 and the high halves elements 16..32; the fifth bits lie together in 32 bits
//! before them.

use super::{blocks, half_at};

const LENGTH: usize = 32;

pub(super) fn q8_0(bytes: &[u8], out: &mut [f32]) {
    blocks::<34, LENGTH>(bytes, out, |block, out| {
        let scale = half_at(block, 0);
        for (value, code) in out.iter_mut().zip(&block[2..]) {
            *value = scale * f32::from(code.cast_signed());
        }
    });
}

pub(super) fn q4_0(bytes: &[u8], out: &mut [f32]) {
    blocks::<18, LENGTH>(bytes, out, |block, out| {
        let scale = half_at(block, 0);
        for (value, code) in out.iter_mut().zip(four_bit(&block[2..])) {
            *value = scale * f32::from(code.cast_signed() - 8);
        }
    });
}

pub(super) fn q4_1(bytes: &[u8], out: &mut [f32]) {
    blocks::<20, LENGTH>(bytes, out, |block, out| {
        let (scale, least) = (half_at(block, 0), half_at(block, 2));
        for (value, code) in out.iter_mut().zip(four_bit(&block[4..])) {
            *value = scale * f32::from(code) + least;
        }
    });
}

pub(super) fn q5_0(bytes: &[u8], out: &mut [f32]) {
    blocks::<22, LENGTH>(bytes, out, |block, out| {
        let scale = half_at(block, 0);
        for (value, code) in out.iter_mut().zip(five_bit(&block[2..])) {
            *value = scale * f32::from(code.cast_signed() - 16);
        }
    });
}

pub(super) fn q5_1(bytes: &[u8], out: &mut [f32]) {
    blocks::<24, LENGTH>(bytes, out, |block, out| {
        let (scale, least) = (half_at(block, 0), half_at(block, 2));
        for (value, code) in out.iter_mut().zip(five_bit(&block[4..])) {
            *value = scale * f32::from(code) + least;
        }
    });
}

/// The codes of a block out of its 16 bytes.
fn four_bit(bytes: &[u8]) -> [u8; LENGTH] {
    let mut codes = [0; LENGTH];
    let (low, high) = codes.split_at_mut(LENGTH / 2);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = byte & 0x0f;
        *high = byte >> 4;
    }
    codes
}

/// The codes of a block: four bytes of fifth bits, then the 16 bytes of the others.
fn five_bit(bytes: &[u8]) -> [u8; LENGTH] {
    let (fifth, rest) = bytes.split_at(4);
    let mut codes = four_bit(rest);
    for (codes, fifth) in codes.chunks_exact_mut(8).zip(fifth) {
        for (bit, code) in codes.iter_mut().enumerate() {
            *code |= (fifth >> bit & 1) << 4;
        }
    }
    codes
}
