//! What each of the 16 codes stands for, in fractions of a block's scale.

use std::fmt;

/// A 4-bit code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Code {
    /// Normal float: quantiles of a normal distribution, in order, with an exact 0.
    Nf4,
    /// A float of one sign bit, two of exponent and one of mantissa, by bit pattern. Its exponents are bitsandbytes' own.
    Fp4,
}

/// In order.
const NF4: [f32; 16] = [
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

/// Twelfths of 0, 1/16, 8, 12, 4, 6, 2, 3, then the same below zero; both zeros are positive.
const FP4: [f32; 16] = [
    0.0,
    0.062_5 / 12.0,
    8.0 / 12.0,
    1.0,
    4.0 / 12.0,
    0.5,
    2.0 / 12.0,
    0.25,
    0.0,
    -0.062_5 / 12.0,
    -8.0 / 12.0,
    -1.0,
    -4.0 / 12.0,
    -0.5,
    -2.0 / 12.0,
    -0.25,
];

const NF4_ORDER: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const FP4_ORDER: [u8; 16] = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3];

impl Code {
    /// The value of each code, within [-1, 1].
    pub const fn values(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }

    /// The codes, in the order of their values.
    pub const fn order(self) -> &'static [u8; 16] {
        match self {
            Self::Nf4 => &NF4_ORDER,
            Self::Fp4 => &FP4_ORDER,
        }
    }

    /// The midpoints between neighbouring values.
    pub fn bounds(self) -> [f32; 15] {
        let value = |place: usize| self.values()[usize::from(self.order()[place])];
        std::array::from_fn(|place| f32::midpoint(value(place), value(place + 1)))
    }

    /// Its name, as the manifest has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "NF4",
            Self::Fp4 => "FP4",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
