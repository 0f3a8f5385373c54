//! Rotary position embedding in the half-split form of transformers: of the first R elements of a head, the pair (x_i,
//! x_{i+R/2}) is turned by position x frequency_i.
//!
//! Su et al., 2021. The frequencies are evaluated by the same fp32 operations in the same order as in transformers
//! (`modeling_rope_utils.py`), because the last bit of a frequency grows with the position. What turns by them is `rotation`.

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
    pub(super) const fn same_frequencies(&self, length: i64) -> i64 {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
