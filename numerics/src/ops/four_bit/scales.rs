//! The scales of a 4-bit matrix: as they are, or themselves in 8 bits (double quantisation).
//!
//! With double quantisation the scales, less their mean, are held as 8-bit codes in blocks of 256.

/// Scales a scale of scales.
pub const NESTED_BLOCK: usize = 256;

/// The scales of the blocks.
#[derive(Debug)]
pub enum Scales {
    /// As they are.
    Plain(Vec<f32>),
    /// In 8 bits: scale = map\[code\] x nested + offset.
    Double {
        /// One code a block, an index into the map.
        codes: Vec<u8>,
        /// One scale for each 256 codes.
        nested: Vec<f32>,
        /// The mean of the scales.
        offset: f32,
        /// What the codes stand for: the signed dynamic map, or what a file has in its place.
        map: Box<[f32; 256]>,
    },
}

impl Scales {
    /// Quantises scales.
    pub(super) fn double(scales: &[f32]) -> Self {
        let offset = (scales.iter().map(|&scale| f64::from(scale)).sum::<f64>()
            / scales.len() as f64) as f32;
        let map = dynamic_map();
        let middles = middles(&map);
        let mut codes = Vec::with_capacity(scales.len());
        let mut nested = Vec::with_capacity(scales.len().div_ceil(NESTED_BLOCK));
        for block in scales.chunks(NESTED_BLOCK) {
            let largest = block.iter().fold(0.0_f32, |largest, scale| {
                largest.max((scale - offset).abs())
            });
            // Times a scale of 0 every code is 0.
            let code = |scale: &f32| match largest > 0.0 {
                true => code_of((scale - offset) * (1.0 / largest), &middles),
                false => 0,
            };
            codes.extend(block.iter().map(code));
            nested.push(largest);
        }
        Self::Double {
            codes,
            nested,
            offset,
            map: Box::new(map),
        }
    }

    /// Writes the scales of consecutive blocks, of which `first` is the first: a multiple of [`NESTED_BLOCK`].
    pub(super) fn write(&self, first: usize, scales: &mut [f32]) {
        match self {
            Self::Plain(plain) => scales.copy_from_slice(&plain[first..first + scales.len()]),
            Self::Double {
                codes,
                nested,
                offset,
                map,
            } => {
                let codes = codes[first..].chunks(NESTED_BLOCK);
                let parts = scales.chunks_mut(NESTED_BLOCK).zip(codes);
                for ((scales, codes), nested) in parts.zip(&nested[first / NESTED_BLOCK..]) {
                    for (scale, &code) in scales.iter_mut().zip(codes) {
                        *scale = map[usize::from(code)] * nested + offset;
                    }
                }
            }
        }
    }

    /// The scale of one block.
    #[inline(always)]
    pub(in crate::ops) fn of(&self, block: usize) -> f32 {
        match self {
            Self::Plain(plain) => plain[block],
            Self::Double {
                codes,
                nested,
                offset,
                map,
            } => map[usize::from(codes[block])] * nested[block / NESTED_BLOCK] + offset,
        }
    }

    /// The scale of each block.
    pub fn to_vec(&self) -> Vec<f32> {
        let blocks = match self {
            Self::Plain(scales) => scales.len(),
            Self::Double { codes, .. } => codes.len(),
        };
        let mut scales = vec![0.0; blocks];
        self.write(0, &mut scales);
        scales
    }

    /// The memory that they take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Plain(scales) => size_of_val(scales.as_slice()),
            Self::Double {
                codes, nested, map, ..
            } => codes.len() + size_of_val(nested.as_slice()) + size_of_val(map.as_slice()),
        }
    }

    /// That they are the scales of `blocks` blocks.
    pub(super) fn check(&self, blocks: usize) -> Result<(), String> {
        let found = match self {
            Self::Plain(scales) => scales.len(),
            Self::Double { codes, .. } => codes.len(),
        };
        if found != blocks {
            return Err(format!("it has {found} scales, expected {blocks}"));
        }
        match self {
            Self::Double { nested, .. } if nested.len() != blocks.div_ceil(NESTED_BLOCK) => {
                Err(format!(
                    "it has {} scales of scales, expected {}",
                    nested.len(),
                    blocks.div_ceil(NESTED_BLOCK)
                ))
            }
            Self::Plain(_) | Self::Double { .. } => Ok(()),
        }
    }
}

/// The midpoints between neighbouring entries of a map.
fn middles(map: &[f32; 256]) -> [f32; 255] {
    std::array::from_fn(|place| 0.5 * (map[place] + map[place + 1]))
}

/// The code of a value in [-1, 1], as bitsandbytes' library for CPUs takes it: the nearest not to the value but to the nearest of 65536
/// evenly spaced numbers (a tie goes down). Near 0, where entries lie closer than those, that is a neighbour now and then.
fn code_of(value: f32, middles: &[f32; 255]) -> u8 {
    const LAST: f32 = 65535.0;
    let place = ((value.clamp(-1.0, 1.0) + 1.0) * 0.5 * LAST + 0.5).floor();
    let even = -1.0 + 2.0 * place / LAST;
    middles.partition_point(|&middle| middle < even) as u8
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
