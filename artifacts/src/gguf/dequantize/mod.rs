//! From blocks to floats, to the bit as ggml's own reference functions compute it: each product and each sum is rounded
//! by itself, in that order.
//!
//! The one list of what can be dequantised: a message that says what is supported takes it from here.

mod plain;
mod small_blocks;
mod super_blocks;

use half::f16;

use super::TensorType;

/// Fills floats from blocks that hold exactly that many elements.
type Decoder = fn(&[u8], &mut [f32]);

/// The types that can be dequantised, by name.
static DECODERS: [(&str, Decoder); 13] = [
    ("F32", plain::single),
    ("F16", plain::half),
    ("BF16", plain::brain),
    ("Q4_0", small_blocks::q4_0),
    ("Q4_1", small_blocks::q4_1),
    ("Q5_0", small_blocks::q5_0),
    ("Q5_1", small_blocks::q5_1),
    ("Q8_0", small_blocks::q8_0),
    ("Q2_K", super_blocks::q2_k),
    ("Q3_K", super_blocks::q3_k),
    ("Q4_K", super_blocks::q4_k),
    ("Q5_K", super_blocks::q5_k),
    ("Q6_K", super_blocks::q6_k),
];

/// Fills `out` from `bytes`, which hold exactly that many elements. False where the type is not supported.
pub(super) fn dequantize(tensor_type: TensorType, bytes: &[u8], out: &mut [f32]) -> bool {
    let found = DECODERS
        .iter()
        .find(|(name, _)| *name == tensor_type.name());
    if let Some((_, decode)) = found {
        decode(bytes, out);
    }
    found.is_some()
}

/// The types that can be dequantised, for people: `F32, F16, … or Q6_K`.
pub(super) fn supported() -> String {
    let names = DECODERS.map(|(name, _)| name);
    let (last, others) = names.split_last().unwrap_or((&"", &[]));
    format!("{} or {last}", others.join(", "))
}

/// Elements in blocks of `LENGTH` that take `BYTES` bytes each.
fn blocks<const BYTES: usize, const LENGTH: usize>(
    bytes: &[u8],
    out: &mut [f32],
    fill: impl Fn(&[u8; BYTES], &mut [f32; LENGTH]),
) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<LENGTH>().0) {
        fill(block, out);
    }
}

/// The half-precision number at byte `at` of a block.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
