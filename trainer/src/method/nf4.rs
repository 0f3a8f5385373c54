//! A matrix in 4-bit normal float, with or without quantised scales (Dettmers et al., 2023), to the bit as bitsandbytes.
//!
//! Values are row-major in blocks of 64. A block's scale is its largest magnitude; a value's code is the nearest of 16
//! quantiles to value / scale. With double quantisation the scales, less their mean, are themselves held in 8 bits in blocks of 256.

use tch::{Kind, Tensor};

use super::nf4_decode;
use crate::ops::{Error, Result, slice, slice_mut};

/// Values a scale.
pub(super) const BLOCK: usize = 64;

/// Scales a scale of scales.
const NESTED_BLOCK: usize = 256;

/// The 16 values: quantiles of a normal distribution, within [-1, 1], with an exact 0.
pub const CODE: [f32; 16] = [
    -1.0,
    -0.696_192_800_998_687_7,
    -0.525_073_051_452_636_7,
    -0.394_917_488_098_144_53,
    -0.284_441_381_692_886_35,
    -0.184_773_430_228_233_34,
    -0.091_050_036_251_544_95,
    0.0,
    0.079_580_299_556_255_34,
    0.160_930_201_411_247_25,
    0.246_112_301_945_686_34,
    0.337_915_241_718_292_24,
    0.440_709_829_330_444_34,
    0.562_617_003_917_694_1,
    0.722_956_836_223_602_3,
    1.0,
];

/// A matrix in 4 bits.
#[derive(Debug)]
pub struct Nf4Matrix {
    rows: i64,
    columns: i64,
    codes: Vec<u8>,
    scales: Scales,
}

/// The scales of the blocks.
#[derive(Debug)]
pub enum Scales {
    /// As they are.
    Plain(Vec<f32>),
    /// In 8 bits: scale = map\[code\] x nested + offset.
    Double {
        /// One code a block, an index into the signed dynamic map.
        codes: Vec<u8>,
        /// One scale for each 256 codes.
        nested: Vec<f32>,
        /// The mean of the scales.
        offset: f32,
    },
}

impl Nf4Matrix {
    /// Quantises a weight (out, in) of any floating type.
    pub fn quantise(weight: &Tensor, double_quantization: bool) -> Result<Self> {
        let (rows, columns) = weight.size2()?;
        let weight = weight.f_to_kind(Kind::Float)?.f_contiguous()?;
        let values = slice::<f32>(&weight)?;
        let bounds = bounds();
        let mut codes = Vec::with_capacity(values.len().div_ceil(2));
        let mut scales = Vec::with_capacity(values.len().div_ceil(BLOCK));
        for block in values.chunks(BLOCK) {
            let scale = block
                .iter()
                .fold(0.0_f32, |largest, value| largest.max(value.abs()));
            // In a block of zeros every value has the code of 0.
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            for pair in block.chunks(2) {
                let high = nearest(pair[0] * inverse, &bounds);
                let low = pair
                    .get(1)
                    .map_or(0, |value| nearest(value * inverse, &bounds));
                codes.push(high << 4 | low);
            }
            scales.push(scale);
        }
        let scales = if double_quantization {
            Scales::double(&scales)
        } else {
            Scales::Plain(scales)
        };
        Ok(Self {
            rows,
            columns,
            codes,
            scales,
        })
    }

    /// (out, in).
    pub const fn shape(&self) -> (i64, i64) {
        (self.rows, self.columns)
    }

    /// The codes, two to a byte, the first in the high half.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The scales of the blocks.
    pub const fn scales(&self) -> &Scales {
        &self.scales
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
            Kind::BFloat16 => {
                nf4_decode::decode(slice_mut(dense)?, &self.codes, self.scales.iter());
            }
            _ => self.decode(slice_mut(dense)?),
        }
        Ok(())
    }

    fn decode(&self, dense: &mut [f32]) {
        let blocks = dense.chunks_mut(BLOCK).zip(self.codes.chunks(BLOCK / 2));
        for ((values, codes), scale) in blocks.zip(self.scales.iter()) {
            // The 16 possible values of the block, so that a value is one look-up.
            let table = CODE.map(|code| code * scale);
            for (pair, &byte) in values.chunks_mut(2).zip(codes) {
                pair[0] = table[usize::from(byte >> 4)];
                if let Some(second) = pair.get_mut(1) {
                    *second = table[usize::from(byte & 0xf)];
                }
            }
        }
    }
}

impl Scales {
    fn double(scales: &[f32]) -> Self {
        let offset = (scales.iter().map(|&scale| f64::from(scale)).sum::<f64>()
            / scales.len() as f64) as f32;
        let map = dynamic_map();
        let mut codes = Vec::with_capacity(scales.len());
        let mut nested = Vec::with_capacity(scales.len().div_ceil(NESTED_BLOCK));
        for block in scales.chunks(NESTED_BLOCK) {
            let largest = block.iter().fold(0.0_f32, |largest, scale| {
                largest.max((scale - offset).abs())
            });
            let inverse = if largest > 0.0 { 1.0 / largest } else { 0.0 };
            for scale in block {
                let value = (scale - offset) * inverse;
                let above = map
                    .partition_point(|&entry| entry < value)
                    .clamp(1, map.len() - 1);
                let code = if value - map[above - 1] <= map[above] - value {
                    above - 1
                } else {
                    above
                };
                codes.push(code as u8);
            }
            nested.push(largest);
        }
        Self::Double {
            codes,
            nested,
            offset,
        }
    }

    /// The scale of each block.
    pub fn iter(&self) -> impl Iterator<Item = f32> {
        let map = dynamic_map();
        let (plain, double) = match self {
            Self::Plain(scales) => (Some(scales.iter().copied()), None),
            Self::Double {
                codes,
                nested,
                offset,
            } => {
                let scale = move |(index, &code): (usize, &u8)| {
                    map[usize::from(code)] * nested[index / NESTED_BLOCK] + offset
                };
                (None, Some(codes.iter().enumerate().map(scale)))
            }
        };
        plain
            .into_iter()
            .flatten()
            .chain(double.into_iter().flatten())
    }
}

/// The midpoints between neighbouring codes.
pub fn bounds() -> [f32; 15] {
    std::array::from_fn(|index| f32::midpoint(CODE[index], CODE[index + 1]))
}

/// The code of value / scale: the number of midpoints below it (a tie goes down).
fn nearest(value: f32, bounds: &[f32; 15]) -> u8 {
    bounds.iter().map(|&bound| u8::from(value > bound)).sum()
}

/// The signed 8-bit dynamic map of bitsandbytes, sorted: seven decades, each with twice the values of the one below, 0, and 1
/// (but not -1). To two units of the last place: libtorch's own even spacing depends there on the processor.
pub fn dynamic_map() -> [f32; 256] {
    let mut map = [0.0_f32; 256];
    let mut filled = 0;
    for decade in 0..7 {
        let count = 1_usize << decade;
        let size = 10.0_f64.powi(decade - 6) as f32;
        // `count + 1` evenly spaced boundaries from 0.1 to 1, as torch.linspace: the upper half counted from the end.
        let step = (1.0_f32 - 0.1) / count as f32;
        let boundary = |index: usize| {
            if index < count.div_ceil(2) {
                0.1 + step * index as f32
            } else {
                1.0 - step * (count - index) as f32
            }
        };
        for index in 0..count {
            let value = size * ((boundary(index) + boundary(index + 1)) / 2.0);
            map[filled] = value;
            map[filled + 1] = -value;
            filled += 2;
        }
    }
    map[255] = 1.0;
    map.sort_by(f32::total_cmp);
    map
}
