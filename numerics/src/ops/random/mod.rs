//! What is random in training, as a function of where it is drawn: dropout masks and noise on the embedding.
//!
//! No generator has a state. A number depends on the run's seed, the step, the micro-batch, the module, the row and the
//! column alone, so that a resumed run draws what an uninterrupted one does, and a backward pass the mask of its forward.

mod cpu;

use half::bf16;
use sha2::{Digest, Sha256};
use tch::Tensor;

use super::Result;
use super::side::Side;

/// Bits of a uniform number: as many as an fp32 has.
const BITS: u32 = 24;

/// A pass that draws.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Draw {
    /// The run's seed.
    pub seed: u64,
    /// The optimiser step, from 0.
    pub step: u64,
    /// The pass within the step, from 0.
    pub micro_batch: u64,
}

impl Draw {
    /// The key of the module of this name.
    pub fn key(&self, name: &str) -> Key {
        let mut hash = Sha256::new();
        for number in [self.seed, self.step, self.micro_batch] {
            hash.update(number.to_le_bytes());
        }
        hash.update(name.as_bytes());
        let digest = hash.finalize();
        let word = |at: usize| {
            u32::from_le_bytes([digest[at], digest[at + 1], digest[at + 2], digest[at + 3]])
        };
        Key([word(0), word(4)])
    }
}

/// What all numbers of one module in one pass come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Key([u32; 2]);

impl Key {
    /// What the numbers of a row come from.
    #[inline(always)]
    const fn of_row(self, row: u32) -> u32 {
        mix(mix(row ^ self.0[0]) ^ self.0[1])
    }
}

/// A uniform number from 0 to 2^24 - 1.
#[inline(always)]
const fn uniform(of_row: u32, column: u32) -> u32 {
    mix(column.wrapping_mul(0x9e37_79b9) ^ of_row) >> (32 - BITS)
}

/// A bijection of 32 bits in which every bit of the result depends on every bit of x (Wellons, 2018: `lowbias32`).
#[inline(always)]
const fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Dropout (Srivastava et al., 2014): each number is 0 with probability `rate`, else divided by 1 - rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability, below 1.
    pub rate: f64,
    /// What the mask comes from.
    pub key: Key,
}

impl Dropout {
    /// The dropout of a part of a pass, named by two numbers: no two parts have one mask.
    #[must_use]
    pub const fn of_part(self, first: u32, second: u32) -> Self {
        let Key([low, high]) = self.key;
        let key = Key([mix(low ^ mix(first)), mix(high ^ mix(second ^ 0x9e37_79b9))]);
        Self { key, ..self }
    }

    /// What the numbers of a row are multiplied by.
    #[inline(always)]
    pub(super) fn of_row(&self, row: usize) -> RowMask {
        RowMask {
            of_row: self.key.of_row(row as u32),
            least: (self.rate * f64::from(1 << BITS)).round() as u32,
            factor: (1.0 / (1.0 - self.rate)) as f32,
        }
    }

    /// x (M, N) under the mask; of a gradient, the gradient.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match Side::of(x, "dropout")? {
            Side::CpuBrain => cpu::drop_out::<bf16>(self, x),
            Side::CpuFloat => cpu::drop_out::<f32>(self, x),
        }
    }
}

/// The mask of one row.
#[derive(Clone, Copy)]
pub(super) struct RowMask {
    of_row: u32,
    least: u32,
    factor: f32,
}

impl RowMask {
    /// What the number in this column is multiplied by: 0, or what makes up for those left out.
    #[inline(always)]
    pub(super) const fn factor(&self, column: u32) -> f32 {
        match uniform(self.of_row, column) < self.least {
            true => 0.0,
            false => self.factor,
        }
    }
}

/// Adds uniform noise within ±`magnitude` to x (M, N).
pub fn add_noise(x: &mut Tensor, magnitude: f64, key: Key) -> Result<()> {
    match Side::of(x, "noise")? {
        Side::CpuBrain => cpu::add_noise::<bf16>(x, magnitude, key),
        Side::CpuFloat => cpu::add_noise::<f32>(x, magnitude, key),
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use tch::Kind;

    use super::*;

    const DRAW: Draw = Draw {
        seed: 42,
        step: 7,
        micro_batch: 0,
    };

    fn kept(dropout: Dropout, rows: i64, columns: i64, kind: Kind) -> Vec<Vec<f64>> {
        let ones = Tensor::ones([rows, columns], (kind, Device::Cpu));
        let masked = dropout.apply(&ones).unwrap().to_kind(Kind::Double);
        Vec::<Vec<f64>>::try_from(masked).unwrap()
    }

    #[test]
    fn dropout_keeps_its_share_of_every_row_and_column_and_the_mean() {
        let dropout = Dropout {
            rate: 0.2,
            key: DRAW.key("a"),
        };
        let masked = kept(dropout, 1000, 1000, Kind::Float);
        let share = |sum: f64| (sum * 0.8 / 1000.0 - 0.8).abs();
        for row in &masked {
            // Five standard deviations of a thousand draws.
            assert!(share(row.iter().sum()) < 0.064);
        }
        for column in 0..1000 {
            assert!(share(masked.iter().map(|row| row[column]).sum()) < 0.064);
        }
        let mean = masked.iter().flatten().sum::<f64>() / 1e6;
        assert!((mean - 1.0).abs() < 2e-3, "{mean}");
        // Neighbours are independent: both kept with probability 0.8 x 0.8.
        let both: f64 = masked
            .iter()
            .flat_map(|row| row.windows(2))
            .map(|pair| f64::from(u8::from(pair[0] > 0.0 && pair[1] > 0.0)))
            .sum();
        assert!((both / 999e3 - 0.64).abs() < 3e-3, "{both}");
    }

    #[test]
    fn every_step_pass_module_and_seed_has_a_mask_of_its_own_and_the_same_again() {
        let mask = |draw: Draw, name: &str| {
            let dropout = Dropout {
                rate: 0.5,
                key: draw.key(name),
            };
            kept(dropout, 8, 64, Kind::BFloat16)
        };
        let one = mask(DRAW, "a");
        assert_eq!(one, mask(DRAW, "a"));
        for other in [
            mask(Draw { seed: 43, ..DRAW }, "a"),
            mask(Draw { step: 8, ..DRAW }, "a"),
            mask(
                Draw {
                    micro_batch: 1,
                    ..DRAW
                },
                "a",
            ),
            mask(DRAW, "b"),
        ] {
            let same = one.iter().flatten().zip(other.iter().flatten());
            let same = same
                .filter(|(one, other)| (**one > 0.0) == (**other > 0.0))
                .count();
            assert!((200..312).contains(&same), "{same} of 512");
        }
    }

    #[test]
    fn noise_is_uniform_within_its_magnitude() {
        let mut x = Tensor::zeros([256, 256], (Kind::Float, Device::Cpu));
        add_noise(&mut x, 0.5, DRAW.key("embedding")).unwrap();
        let largest = x.abs().max().double_value(&[]);
        assert!((0.4999..=0.5).contains(&largest), "{largest}");
        assert!(x.mean(Kind::Double).double_value(&[]).abs() < 6e-3);
        let variance = (&x * &x).mean(Kind::Double).double_value(&[]);
        assert!((variance - 0.25 / 3.0).abs() < 2e-3, "{variance}");
    }
}
