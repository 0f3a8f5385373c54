//! A matrix in 4 bits, with or without quantised scales (Dettmers et al., 2023), to the bit as bitsandbytes.
//!
//! Values are row-major in blocks of 64. A block's scale is its largest magnitude; a value's code is the nearest of the
//! code's 16 values to value / scale. A matrix is made from a dense one, or taken over as a file has it; it is decoded into
//! a buffer for each use, and never kept dense.

mod code;
mod cpu;
mod scales;

use half::bf16;
use tch::{Kind, Tensor};

use self::cpu::Decoded;
pub use code::Code;
pub use scales::{NESTED_BLOCK, Scales, dynamic_map};

use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::cpu::memory::{slice, slice_mut};
use crate::ops::{Error, Result};

/// Values a scale.
pub const BLOCK: usize = 64;

/// The least number that a block is divided by, so that one of zeros is divided by none.
const LEAST_SCALE: f32 = 1e-38;

/// A matrix in 4 bits.
#[derive(Debug)]
pub struct FourBitMatrix {
    rows: i64,
    columns: i64,
    code: Code,
    codes: Vec<u8>,
    scales: Scales,
}

impl FourBitMatrix {
    /// Quantises a weight (out, in) of any floating type.
    pub fn quantise(weight: &Tensor, code: Code, double_quantization: bool) -> Result<Self> {
        let (rows, columns) = weight.size2()?;
        let weight = weight.f_to_kind(Kind::Float)?.f_contiguous()?;
        let values = slice::<f32>(&weight)?;
        let (bounds, order) = (code.bounds(), code.order());
        let nearest = |value: f32| order[place(value, &bounds)];
        let mut codes = Vec::with_capacity(values.len().div_ceil(2));
        let mut scales = Vec::with_capacity(values.len().div_ceil(BLOCK));
        for block in values.chunks(BLOCK) {
            let largest = block
                .iter()
                .fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let divisor = largest.max(LEAST_SCALE);
            let inverse = 1.0 / divisor;
            // bitsandbytes multiplies whole blocks by the inverse and divides the last, partial one.
            let whole = block.len() == BLOCK;
            let scaled = |value: f32| match whole {
                true => value * inverse,
                false => value / divisor,
            };
            for pair in block.chunks(2) {
                let high = nearest(scaled(pair[0]));
                let low = nearest(pair.get(1).map_or(0.0, |value| scaled(*value)));
                codes.push(high << 4 | low);
            }
            scales.push(if whole { largest } else { divisor });
        }
        let scales = if double_quantization {
            Scales::double(&scales)
        } else {
            Scales::Plain(scales)
        };
        Ok(Self {
            rows,
            columns,
            code,
            codes,
            scales,
        })
    }

    /// A matrix (out, in) as a file has it. Refuses codes or scales of another number than the shape calls for.
    pub fn from_parts(
        (rows, columns): (i64, i64),
        code: Code,
        codes: Vec<u8>,
        scales: Scales,
    ) -> std::result::Result<Self, String> {
        check_parts((rows, columns), codes.len(), &scales)?;
        Ok(Self {
            rows,
            columns,
            code,
            codes,
            scales,
        })
    }

    /// (out, in).
    pub const fn shape(&self) -> (i64, i64) {
        (self.rows, self.columns)
    }

    /// Its code.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// The codes, two to a byte, the first in the high half.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The scales of the blocks.
    pub const fn scales(&self) -> &Scales {
        &self.scales
    }

    /// The memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.scales.bytes()
    }

    /// Writes the values into `dense` (out, in), contiguous, fp32 or bf16: computed in fp32, then rounded.
    pub fn decode_into(&self, dense: &mut Tensor) -> Result<()> {
        if dense.numel() as i64 != self.rows * self.columns {
            return Err(Error::Shape {
                name: "dense".to_owned(),
                found: dense.size(),
                expected: vec![self.rows, self.columns],
            });
        }
        match dense.f_kind()? {
            Kind::BFloat16 => self.decode_in(slice_mut::<bf16>(dense)?),
            _ => self.decode_in(slice_mut::<f32>(dense)?),
        }
        Ok(())
    }

    fn decode_in<T: Decoded>(&self, dense: &mut [T]) {
        let parts = dense
            .chunks_mut(BLOCKS_PER_PART * BLOCK)
            .zip(self.codes.chunks(BLOCKS_PER_PART * BLOCK / 2));
        let parts = parts.enumerate().map(|(part, (values, codes))| Decode {
            values,
            codes,
            scales: &self.scales,
            first_block: part * BLOCKS_PER_PART,
            values_of: self.code.values(),
        });
        kernel::run_all(parts.collect());
    }
}

/// The blocks that are decoded at a time: those of two scales of scales, 32768 values.
const BLOCKS_PER_PART: usize = 2 * NESTED_BLOCK;

/// Decodes some consecutive blocks.
struct Decode<'a, T> {
    values: &'a mut [T],
    codes: &'a [u8],
    /// Those of the whole matrix.
    scales: &'a Scales,
    first_block: usize,
    values_of: &'a [f32; 16],
}

impl<T: Decoded> Kernel for Decode<'_, T> {
    #[inline(always)]
    fn run(self) {
        let mut scales = [0.0; BLOCKS_PER_PART];
        let scales = &mut scales[..self.values.len().div_ceil(BLOCK)];
        self.scales.write(self.first_block, scales);
        T::decode(self.values, self.codes, scales, self.values_of);
    }
}

/// Refuses a number of bytes of codes, or of scales, that is not that of a matrix (out, in).
pub fn check_parts(
    (rows, columns): (i64, i64),
    codes: usize,
    scales: &Scales,
) -> std::result::Result<(), String> {
    let values = usize::try_from(rows)
        .ok()
        .zip(usize::try_from(columns).ok())
        .and_then(|(rows, columns)| rows.checked_mul(columns))
        .ok_or_else(|| format!("its shape is [{rows}, {columns}]"))?;
    let expected = values.div_ceil(2);
    if codes != expected {
        return Err(format!(
            "it has {codes} bytes of codes, expected {expected} for {values} values"
        ));
    }
    scales.check(values.div_ceil(BLOCK))
}

/// The place of value / scale among the code's values in order: the number of midpoints below it (a tie goes down).
fn place(value: f32, bounds: &[f32; 15]) -> usize {
    let below: u8 = bounds.iter().map(|&bound| u8::from(value > bound)).sum();
    usize::from(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let parts = |codes: usize, scales: Scales| {
            let codes = vec![0; codes];
            FourBitMatrix::from_parts((2, 64), Code::Nf4, codes, scales)
                .err()
                .unwrap_or_default()
        };
        let plain = |count: usize| Scales::Plain(vec![1.0; count]);
        assert_eq!(parts(64, plain(2)), "");
        assert!(parts(63, plain(2)).contains("63 bytes of codes, expected 64"));
        assert!(parts(64, plain(3)).contains("3 scales, expected 2"));
        let double = |codes: usize, nested: usize| Scales::Double {
            codes: vec![0; codes],
            nested: vec![1.0; nested],
            offset: 0.0,
            map: Box::new(dynamic_map()),
        };
        assert_eq!(parts(64, double(2, 1)), "");
        assert!(parts(64, double(1, 1)).contains("1 scales, expected 2"));
        assert!(parts(64, double(2, 2)).contains("2 scales of scales, expected 1"));
        assert!(FourBitMatrix::from_parts((i64::MAX, 4), Code::Fp4, Vec::new(), plain(0)).is_err());
    }
}
