//! From blocks to floats, to the bit as ggml's own reference functions compute it.
//!
//! A Q block holds 32 elements under one half-precision scale: `Q8_0` d·q; `Q4_0` d·(q − 8); `Q4_1` d·q + m. In the
//! 4-bit types the low halves of the 16 bytes are elements 0..16 and the high halves elements 16..32.

use half::{bf16, f16};

use super::TensorType;

const BLOCK: usize = 32;

/// Fills `out` from `bytes`, which hold exactly that many elements. False where the type is not supported.
pub(super) fn dequantize(tensor_type: TensorType, bytes: &[u8], out: &mut [f32]) -> bool {
    match tensor_type.name() {
        "F32" => each(bytes, out, f32::from_le_bytes),
        "F16" => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        "BF16" => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        "Q8_0" => blocks::<34>(bytes, out, |block, out| {
            let scale = half_at(block, 0);
            for (value, code) in out.iter_mut().zip(&block[2..]) {
                *value = scale * f32::from(code.cast_signed());
            }
        }),
        "Q4_0" => blocks::<18>(bytes, out, |block, out| {
            let scale = half_at(block, 0);
            four_bit(&block[2..], out, |code| {
                scale * f32::from(code.cast_signed() - 8)
            });
        }),
        "Q4_1" => blocks::<20>(bytes, out, |block, out| {
            let (scale, least) = (half_at(block, 0), half_at(block, 2));
            four_bit(&block[4..], out, |code| scale * f32::from(code) + least);
        }),
        _ => return false,
    }
    true
}

/// Elements that stand alone.
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = value(*bytes);
    }
}

/// Elements in blocks of 32 that take `BYTES` bytes each.
fn blocks<const BYTES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    fill: impl Fn(&[u8; BYTES], &mut [f32; BLOCK]),
) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
        fill(block, out);
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn four_bit(codes: &[u8], out: &mut [f32; BLOCK], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(BLOCK / 2);
    for ((low, high), code) in low.iter_mut().zip(high).zip(codes) {
        *low = value(code & 0x0f);
        *high = value(code >> 4);
    }
}
