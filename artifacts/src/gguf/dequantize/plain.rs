//! Elements that stand alone: floats of three widths. Widening is exact.

use half::{bf16, f16};

pub(super) fn single(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, f32::from_le_bytes);
}

pub(super) fn half(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32());
}

pub(super) fn brain(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32());
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *out = value(*bytes);
    }
}
