//! Rotary position embedding in the half-split form of transformers: of the first R elements of a head, the pair (x_i,
//! x_{i+R/2}) is turned by position x frequency_i.
//!
//! Su et al., 2021. Angles are fp32; cos and sin are rounded to the type of the activations, as transformers does. The
//! frequencies are evaluated by the same fp32 operations in the same order as there (`modeling_rope_utils.py`), because the
//! last bit of a frequency grows with the position.

use std::f64::consts::TAU;

use tch::{Device, Kind, Tensor};

use super::Result;

/// How positions turn queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// R, the elements of a head that are turned: even, at most the head size.
    pub dimensions: i64,
    /// What stretches the frequencies for sequences longer than the model was first trained on.
    pub scaling: Scaling,
}

/// The ways to stretch frequencies. Those of `Dynamic` and `Long` depend on the length of the sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// None: theta^(-2i/R).
    None,
    /// All divided by one factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// A greater base for a sequence longer than the original length ("NTK-aware").
    Dynamic {
        /// How strongly the base grows.
        factor: f64,
        /// The longest sequence that changes nothing.
        original_length: i64,
    },
    /// Low frequencies divided, high ones kept, with a smooth transition (Llama 3.1).
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above original length / this are divided.
        low_frequency_factor: f64,
        /// Wavelengths below original length / this are kept.
        high_frequency_factor: f64,
        /// The length that the model was first trained on.
        original_length: i64,
    },
    /// The same by a linear ramp over the frequencies (Peng et al., 2023), with longer queries and keys.
    Yarn {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Turns over the original length from which on a frequency is kept.
        beta_fast: f64,
        /// Turns over the original length up to which a frequency is divided.
        beta_slow: f64,
        /// The length that the model was first trained on.
        original_length: i64,
        /// Whether the ends of the ramp are whole numbers.
        truncate: bool,
        /// What cos and sin are multiplied by.
        attention_factor: f64,
    },
    /// A divisor of its own for each frequency (Ding et al., 2024), R/2 each.
    Long {
        /// For sequences up to the original length.
        short: Vec<f64>,
        /// For longer ones.
        long: Vec<f64>,
        /// The length that the model was first trained on.
        original_length: i64,
        /// What cos and sin are multiplied by.
        attention_factor: f64,
    },
}

impl Rope {
    /// The frequencies (R/2), in radians a position, of a sequence of `length` tokens.
    pub fn frequencies(&self, length: i64) -> Result<Vec<f32>> {
        let inverse = |powers: Vec<f32>| powers.into_iter().map(|power| 1.0 / power);
        Ok(match &self.scaling {
            Scaling::None => inverse(self.powers(self.theta)?).collect(),
            Scaling::Linear { factor } => inverse(self.powers(self.theta)?)
                .map(|frequency| frequency / *factor as f32)
                .collect(),
            Scaling::Dynamic {
                factor,
                original_length,
            } => {
                let longer = length.max(*original_length) as f64 / *original_length as f64;
                let exponent = self.dimensions as f64 / (self.dimensions - 2) as f64;
                let stretch = factor * longer - (factor - 1.0);
                inverse(self.powers(self.theta * stretch.powf(exponent))?).collect()
            }
            Scaling::Llama3 { .. } => inverse(self.powers(self.theta)?)
                .map(|frequency| self.llama3(frequency))
                .collect(),
            Scaling::Yarn { .. } => self.yarn(&self.powers(self.theta)?),
            Scaling::Long {
                short,
                long,
                original_length,
                ..
            } => {
                let factors = if length > *original_length {
                    long
                } else {
                    short
                };
                let powers = self.powers(self.theta)?;
                let scaled = powers.iter().zip(factors);
                scaled
                    .map(|(power, factor)| 1.0 / (*factor as f32 * power))
                    .collect()
            }
        })
    }

    /// The length past which a sequence is turned by other frequencies from its first token on: with one more token, keys
    /// that were turned before are of no use.
    pub const fn switch_length(&self) -> Option<i64> {
        match self.scaling {
            Scaling::Long {
                original_length, ..
            } => Some(original_length),
            Scaling::None
            | Scaling::Linear { .. }
            | Scaling::Dynamic { .. }
            | Scaling::Llama3 { .. }
            | Scaling::Yarn { .. } => None,
        }
    }

    /// A length with the same frequencies as `length`, the same one for all such lengths.
    const fn same_frequencies(&self, length: i64) -> i64 {
        match self.scaling {
            Scaling::Dynamic {
                original_length, ..
            } if length > original_length => length,
            Scaling::Long {
                original_length, ..
            } if length > original_length => original_length + 1,
            _ => 0,
        }
    }

    /// What cos and sin are multiplied by.
    pub const fn attention_factor(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn {
                attention_factor, ..
            }
            | Scaling::Long {
                attention_factor, ..
            } => attention_factor,
            Scaling::None
            | Scaling::Linear { .. }
            | Scaling::Dynamic { .. }
            | Scaling::Llama3 { .. } => 1.0,
        }
    }

    /// theta^(2i/R), (R/2).
    fn powers(&self, theta: f64) -> Result<Vec<f32>> {
        let options = (Kind::Float, Device::Cpu);
        let exponents = Tensor::f_arange_start_step(0, self.dimensions, 2, options)?
            .f_div_scalar(self.dimensions)?;
        Ok(Vec::try_from(&Tensor::f_pow_scalar(theta, &exponents)?)?)
    }

    fn llama3(&self, frequency: f32) -> f32 {
        let Scaling::Llama3 {
            factor,
            low_frequency_factor: low,
            high_frequency_factor: high,
            original_length,
        } = self.scaling
        else {
            return frequency;
        };
        let original = original_length as f64;
        let wavelength = TAU as f32 / frequency;
        if f64::from(wavelength) > original / low {
            return frequency / factor as f32;
        }
        if f64::from(wavelength) < original / high {
            return frequency;
        }
        let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
        (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
    }

    fn yarn(&self, powers: &[f32]) -> Vec<f32> {
        let Scaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_length,
            truncate,
            ..
        } = self.scaling
        else {
            return powers.iter().map(|power| 1.0 / power).collect();
        };
        let width = self.dimensions as f64;
        // The index of the frequency that turns so often over the original length.
        let index = |turns: f64| {
            width * (original_length as f64 / (turns * TAU)).ln() / (2.0 * self.theta.ln())
        };
        let (mut from, mut to) = (index(beta_fast), index(beta_slow));
        if truncate {
            (from, to) = (from.floor(), to.ceil());
        }
        let (from, mut to) = (from.max(0.0), to.min(width - 1.0));
        if (to - from).abs() < f64::EPSILON {
            to += 0.001;
        }
        let one = |(index, power): (usize, &f32)| {
            let ramp = ((index as f32 - from as f32) / (to - from) as f32).clamp(0.0, 1.0);
            let kept = 1.0 - ramp;
            1.0 / (factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
        };
        powers.iter().enumerate().map(one).collect()
    }
}

/// cos and sin of every position of a pass, each (T, R/2), or (B, T, R/2) where rows have positions of their own.
#[derive(Debug)]
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// The angles of `positions` (T) or (B, T), whole numbers, within a sequence of `length` tokens.
    pub fn new(rope: &Rope, positions: &Tensor, length: i64) -> Result<Self> {
        Self::of_frequencies(
            rope,
            positions,
            &Tensor::f_from_slice(&rope.frequencies(length)?)?, // (R/2)
        )
    }

    /// The angles of `positions` (T) or (B, T) whose tokens belong to sequences of these `lengths`, one for each of the B·T
    /// tokens. Each token is turned as if its sequence stood alone.
    pub fn of_sequences(
        rope: &Rope,
        positions: &Tensor,
        lengths: &[i64],
        (batch, length): (i64, i64),
    ) -> Result<Self> {
        let mut distinct: Vec<i64> = lengths
            .iter()
            .map(|length| rope.same_frequencies(*length))
            .collect();
        let of_tokens = distinct.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if let [one] = distinct[..] {
            return Self::new(rope, positions, one);
        }
        let mut table = Vec::new();
        for length in &distinct {
            table.extend(rope.frequencies(*length)?);
        }
        let rows: Vec<i64> = of_tokens
            .iter()
            .map(|length| distinct.partition_point(|other| other < length) as i64)
            .collect();
        let frequencies = Tensor::f_from_slice(&table)?
            .f_view([distinct.len() as i64, -1])?
            .f_index_select(0, &Tensor::f_from_slice(&rows)?)?
            .f_view([batch, length, -1])?; // (B, T, R/2)
        Self::of_frequencies(rope, positions, &frequencies)
    }

    /// Frequencies (R/2) or (B, T, R/2).
    fn of_frequencies(rope: &Rope, positions: &Tensor, frequencies: &Tensor) -> Result<Self> {
        let angles = positions
            .f_to_kind(Kind::Float)?
            .f_unsqueeze(-1)?
            .f_mul(frequencies)?; // (T, R/2) or (B, T, R/2)
        let factor = rope.attention_factor();
        Ok(Self {
            cos: angles.f_cos()?.f_mul_scalar(factor)?,
            sin: angles.f_sin()?.f_mul_scalar(factor)?,
        })
    }

    /// Turns x (…, T, D), or (B, …, T, D) where rows have positions of their own; the result is contiguous. In bf16 it is rounded once:
    /// queries and keys that are off by more move a sharp softmax by per cents.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        turn(x, &self.cos, &self.sin)
    }

    /// The gradient for x (…, T, D) from that of the turned x: the turn back.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        turn(dy, &self.cos, &self.sin.f_neg()?)
    }
}

/// The elements past those of cos and sin (fp32) pass as they are.
fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let kind = x.f_kind()?;
    let half = cos.size()[cos.dim() - 1];
    let (cos, sin) = (&stretched(cos, x.dim())?, &stretched(sin, x.dim())?);
    let rest = x.size()[x.dim() - 1] - 2 * half;
    let (first, second) = (x.f_narrow(-1, 0, half)?, x.f_narrow(-1, half, half)?);
    let mut turned = vec![
        first
            .f_mul(cos)?
            .f_sub_(&second.f_mul(sin)?)?
            .f_to_kind(kind)?,
        second
            .f_mul(cos)?
            .f_add_(&first.f_mul(sin)?)?
            .f_to_kind(kind)?,
    ];
    if rest > 0 {
        turned.push(x.f_narrow(-1, 2 * half, rest)?);
    }
    Ok(Tensor::f_cat(&turned, -1)?)
}

/// (B, T, R/2) as (B, 1, …, T, R/2) of so many dimensions; (T, R/2) as it is.
fn stretched(angles: &Tensor, dimensions: usize) -> Result<Tensor> {
    let size = angles.size();
    let [batch, length, half] = size[..] else {
        return Ok(angles.shallow_clone());
    };
    let mut shape = vec![1; dimensions];
    shape[0] = batch;
    shape[dimensions - 2..].copy_from_slice(&[length, half]);
    Ok(angles.f_view(&shape[..])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{assert_close, random};

    #[test]
    fn the_backward_of_a_scaled_turn_of_part_of_a_head_equals_automatic_differentiation() {
        let rope = Rope {
            theta: 100.0,
            dimensions: 6,
            scaling: Scaling::Long {
                short: vec![1.0, 1.5, 2.0],
                long: vec![2.0, 3.0, 4.0],
                original_length: 4,
                attention_factor: 1.3,
            },
        };
        let positions = Tensor::arange(5, (Kind::Int64, Device::Cpu));
        let rotation = Rotation::new(&rope, &positions, 5).unwrap();
        let x = random(&[2, 3, 5, 8], 1).set_requires_grad(true);
        let weight = random(&[2, 3, 5, 8], 2);
        let y = rotation.forward(&x).unwrap();
        (&y * &weight).sum(Kind::Float).backward();
        let dx = rotation.backward(&weight).unwrap();
        assert_close(&dx, &x.grad());
        // What is not turned stays, and the length of what is turned grows by the factor.
        assert!(y.narrow(-1, 6, 2).equal(&x.narrow(-1, 6, 2)));
        let norm = |x: &Tensor| x.narrow(-1, 0, 6).norm().double_value(&[]);
        assert!((norm(&y) / norm(&x) - 1.3).abs() < 1e-5);
    }

    #[test]
    fn frequencies_change_only_past_the_original_length() {
        let rope = |scaling| Rope {
            theta: 100.0,
            dimensions: 4,
            scaling,
        };
        let plain = rope(Scaling::None).frequencies(1).unwrap();
        let dynamic = rope(Scaling::Dynamic {
            factor: 2.0,
            original_length: 8,
        });
        assert_eq!(dynamic.frequencies(8).unwrap(), plain);
        let longer = dynamic.frequencies(16).unwrap();
        assert!((longer[0] - plain[0]).abs() < 1e-7 && longer[1] < 0.9 * plain[1]);
        let long = rope(Scaling::Long {
            short: vec![1.0, 1.0],
            long: vec![2.0, 4.0],
            original_length: 8,
            attention_factor: 1.0,
        });
        assert_eq!(long.frequencies(8).unwrap(), plain);
        let longer = long.frequencies(9).unwrap();
        assert!((longer[1] * 4.0 - plain[1]).abs() < 1e-7);
    }

    #[test]
    fn tokens_of_sequences_of_several_lengths_are_turned_as_each_alone() {
        let scalings = [
            Scaling::Linear { factor: 2.0 },
            Scaling::Dynamic {
                factor: 2.0,
                original_length: 4,
            },
            Scaling::Long {
                short: vec![1.0, 1.5],
                long: vec![2.0, 4.0],
                original_length: 4,
                attention_factor: 1.2,
            },
        ];
        for scaling in scalings {
            let rope = Rope {
                theta: 100.0,
                dimensions: 4,
                scaling,
            };
            let x = random(&[2, 3, 7, 4], 1); // (B, heads, T, D)
            // Of row 0 two sequences, 2 and 5 tokens; of row 1 one of 6, and padding.
            let positions =
                Tensor::from_slice2(&[[0_i64, 1, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 0]]);
            let lengths = [2, 2, 5, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6];
            let together = Rotation::of_sequences(&rope, &positions, &lengths, (2, 7)).unwrap();
            let together = together.forward(&x).unwrap();
            for (row, start, length) in [(0, 0, 2), (0, 2, 5), (1, 0, 6)] {
                let part = |x: &Tensor| x.narrow(0, row, 1).narrow(2, start, length);
                let positions = Tensor::arange(length, (Kind::Int64, Device::Cpu));
                let alone = Rotation::new(&rope, &positions, length).unwrap();
                assert_close(&part(&together), &alone.forward(&part(&x)).unwrap());
            }
        }
    }
}
