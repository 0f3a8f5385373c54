//! The 8-bit codes of optimiser states: bitsandbytes' dynamic maps, and the nearest code of a number.
//!
//! Dettmers, 2015 (8-Bit Approximations for Parallelism in Deep Learning): the more leading zeros a code has, the smaller its
//! power of ten and the fewer bits are left for the fraction. A map holds the values of the 256 codes in ascending order, all
//! between -1 and 1; a block of numbers is divided by the largest of them first.

/// Powers of ten: 1e-6 to 1.
const EXPONENTS: u32 = 7;

/// The values of the 256 codes, and the borders between them.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicMap {
    values: [f32; 256],
    /// `borders[i]` lies half-way between values i and i + 1; the last one is out of reach.
    borders: [f32; 256],
}

impl DynamicMap {
    /// The map for numbers of either sign: 0, 1, and 127 values on each side.
    pub fn signed() -> Self {
        Self::new(true)
    }

    /// The map for numbers that are not negative: 0, 1, and 254 values between them.
    pub fn unsigned() -> Self {
        Self::new(false)
    }

    fn new(signed: bool) -> Self {
        let mut values = vec![0.0, 1.0];
        for exponent in 0..EXPONENTS {
            // One fraction more for each bit that the exponent leaves, and twice as many without a sign.
            let fractions = 1_usize << if signed { exponent } else { exponent + 1 };
            let scale = 10.0_f64.powi(exponent as i32 - (EXPONENTS as i32 - 1)) as f32;
            let bounds = linear_space(0.1, 1.0, fractions + 1);
            for pair in bounds.windows(2) {
                let mean = scale * ((pair[0] + pair[1]) / 2.0);
                values.push(mean);
                if signed {
                    values.push(-mean);
                }
            }
        }
        values.sort_by(f32::total_cmp);
        let mut map = Self {
            values: [0.0; 256],
            borders: [f32::INFINITY; 256],
        };
        map.values.copy_from_slice(&values);
        for code in 0..255 {
            map.borders[code] = (map.values[code] + map.values[code + 1]) / 2.0;
        }
        map
    }

    /// The values of the codes, ascending.
    pub const fn values(&self) -> &[f32; 256] {
        &self.values
    }

    /// The value of a code.
    #[inline(always)]
    pub(super) const fn value(&self, code: u8) -> f32 {
        self.values[code as usize]
    }

    /// The code whose value is nearest to `number`; of two as near, the lower one.
    #[inline(always)]
    pub(super) fn code(&self, number: f32) -> u8 {
        // Eight halvings without a branch that depends on the data.
        let mut code = 0;
        for half in [128, 64, 32, 16, 8, 4, 2, 1] {
            code += half * usize::from(self.borders[code + half - 1] < number);
        }
        code as u8
    }
}

/// `count` numbers from `start` to `end` as torch.linspace gives them in fp32: counted from the nearer end.
fn linear_space(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = (end - start) / (count - 1) as f32;
    let number = |index: usize| {
        if index < count / 2 {
            start + step * index as f32
        } else {
            end - step * (count - index - 1) as f32
        }
    };
    (0..count).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_that_of_the_nearest_value() {
        for map in [DynamicMap::signed(), DynamicMap::unsigned()] {
            for step in -1000..=1000 {
                let number = step as f32 / 1000.0;
                let found = (map.value(map.code(number)) - number).abs();
                let least = map
                    .values()
                    .iter()
                    .map(|value| (value - number).abs())
                    .fold(f32::INFINITY, f32::min);
                assert!(
                    found <= least + 1e-6,
                    "{number}: {found} instead of {least}"
                );
            }
            for code in 0..=255 {
                assert_eq!(map.code(map.value(code)), code);
            }
        }
    }
}
