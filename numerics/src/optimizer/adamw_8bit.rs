//! AdamW whose moments are 8-bit codes, in bitsandbytes' format (Dettmers et al., 2022: 8-bit Optimizers via Block-wise
//! Quantization).
//!
//! Blocks of 256 start anew at each tensor; each has its largest absolute number as scale. The first moment lies on the signed
//! map, the second on the unsigned one, each number as the nearest value. Small tensors keep fp32, because in them a code too
//! coarse would show, and so do embeddings, as the transformers Trainer has it. A parameter moves by its moments before they are
//! rounded.

use std::ops::Range;

use super::adamw::{Constants, Update};
use super::clip::Clip;
use super::dynamic_map::DynamicMap;
use super::{Parameters, State, StateMut};
use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::{Error, Result};

/// Numbers that share a scale.
const BLOCK: usize = 256;
/// Tensors with fewer elements keep fp32 moments.
const LEAST_ELEMENTS: usize = 4096;

/// The optimiser with two codes for each parameter of a large tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW8bit {
    constants: Constants,
    /// The steps taken.
    pub steps: u64,
    parts: Vec<Part>,
    first: Moment,
    second: Moment,
    maps: [DynamicMap; 2],
}

/// One tensor, and where its state begins.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    /// Its elements in the flat buffers.
    range: Range<usize>,
    decay: bool,
    /// Whether its moments are codes.
    coded: bool,
    /// The first of its codes, or of its fp32 numbers.
    start: usize,
    /// The first of its scales.
    scales: usize,
}

/// A moment of all tensors.
#[derive(Clone, Debug, Default, PartialEq)]
struct Moment {
    codes: Vec<u8>,
    scales: Vec<f32>,
    dense: Vec<f32>,
}

impl AdamW8bit {
    /// A fresh optimiser with the usual betas 0.9 and 0.999 and epsilon 1e-8.
    pub fn new(parameters: &Parameters, weight_decay: f64) -> Self {
        let mut parts = Vec::with_capacity(parameters.list().len());
        let (mut codes, mut scales, mut dense) = (0, 0, 0);
        for parameter in parameters.list() {
            let length = parameter.length();
            // Rows without a gradient: where their second moment is rounded to 0 beside others of the block, and the first is not, they
            // would move by the one over the epsilon.
            let coded = length >= LEAST_ELEMENTS && !parameter.sparse;
            parts.push(Part {
                range: parameter.offset..parameter.offset + length,
                decay: parameter.decay,
                coded,
                start: if coded { codes } else { dense },
                scales,
            });
            if coded {
                codes += length;
                scales += length.div_ceil(BLOCK);
            } else {
                dense += length;
            }
        }
        let maps = [DynamicMap::signed(), DynamicMap::unsigned()];
        let moment = |map: &DynamicMap| Moment {
            codes: vec![map.code(0.0); codes],
            scales: vec![0.0; scales],
            dense: vec![0.0; dense],
        };
        Self {
            constants: Constants::new(weight_decay),
            steps: 0,
            first: moment(&maps[0]),
            second: moment(&maps[1]),
            parts,
            maps,
        }
    }

    /// As [`super::Optimizer::step`].
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        learning_rate: f64,
        max_norm: f64,
    ) -> Result<f64> {
        let count = self.parts.last().map_or(0, |part| part.range.end);
        if count != parameters.count() {
            return Err(Error::Input(format!(
                "the optimiser's state is for {count} parameters, expected {}: it belongs to another run",
                parameters.count()
            )));
        }
        let clip = Clip::of(parameters.gradients()?, max_norm);
        if !clip.norm.is_finite() {
            return Ok(clip.norm);
        }
        self.steps += 1;
        let update = self.constants.of_step(self.steps, learning_rate, clip);
        let (values, gradients) = parameters.both_mut()?;
        for part in &self.parts {
            let update = update.with_decay(part.decay);
            let values = &mut values[part.range.clone()];
            let gradients = &mut gradients[part.range.clone()];
            let own = part.start..part.start + part.range.len();
            if !part.coded {
                let moments = self.first.dense[own.clone()]
                    .iter_mut()
                    .zip(&mut self.second.dense[own]);
                for ((value, gradient), (first, second)) in
                    values.iter_mut().zip(gradients).zip(moments)
                {
                    update.apply(value, gradient, first, second);
                }
                continue;
            }
            let scales = part.scales..part.scales + part.range.len().div_ceil(BLOCK);
            let blocks = kernel::rows_per_part(BLOCK);
            let parts = values
                .chunks_mut(blocks * BLOCK)
                .zip(gradients.chunks_mut(blocks * BLOCK));
            let first = self.first.codes[own.clone()]
                .chunks_mut(blocks * BLOCK)
                .zip(self.first.scales[scales.clone()].chunks_mut(blocks));
            let second = self.second.codes[own]
                .chunks_mut(blocks * BLOCK)
                .zip(self.second.scales[scales].chunks_mut(blocks));
            let maps = &self.maps;
            kernel::run_all(
                parts
                    .zip(first)
                    .zip(second)
                    .map(|(((values, gradients), first), second)| Blocks {
                        update,
                        values,
                        gradients,
                        first,
                        second,
                        maps,
                    })
                    .collect(),
            );
        }
        Ok(clip.norm)
    }

    /// What a checkpoint saves, beside the number of steps.
    pub(super) fn state(&self) -> Vec<(&'static str, State<'_>)> {
        vec![
            ("first_codes", State::Code(&self.first.codes)),
            ("first_scales", State::Float(&self.first.scales)),
            ("first_moment", State::Float(&self.first.dense)),
            ("second_codes", State::Code(&self.second.codes)),
            ("second_scales", State::Float(&self.second.scales)),
            ("second_moment", State::Float(&self.second.dense)),
        ]
    }

    /// The same, to be restored.
    pub(super) fn state_mut(&mut self) -> Vec<(&'static str, StateMut<'_>)> {
        vec![
            ("first_codes", StateMut::Code(&mut self.first.codes)),
            ("first_scales", StateMut::Float(&mut self.first.scales)),
            ("first_moment", StateMut::Float(&mut self.first.dense)),
            ("second_codes", StateMut::Code(&mut self.second.codes)),
            ("second_scales", StateMut::Float(&mut self.second.scales)),
            ("second_moment", StateMut::Float(&mut self.second.dense)),
        ]
    }
}

/// Some blocks of one tensor: a moment as its codes and its scales.
struct Blocks<'a> {
    update: Update,
    values: &'a mut [f32],
    gradients: &'a mut [f32],
    first: (&'a mut [u8], &'a mut [f32]),
    second: (&'a mut [u8], &'a mut [f32]),
    maps: &'a [DynamicMap; 2],
}

impl Kernel for Blocks<'_> {
    #[inline(always)]
    fn run(self) {
        let mut moments = [[0.0_f32; BLOCK]; 2];
        let [signed, unsigned] = self.maps;
        let blocks = self
            .values
            .chunks_mut(BLOCK)
            .zip(self.gradients.chunks_mut(BLOCK))
            .zip(self.first.0.chunks_mut(BLOCK).zip(self.first.1))
            .zip(self.second.0.chunks_mut(BLOCK).zip(self.second.1));
        for (((values, gradients), first), second) in blocks {
            let [firsts, seconds] = &mut moments;
            let (firsts, seconds) = (&mut firsts[..values.len()], &mut seconds[..values.len()]);
            decode(firsts, first.0, *first.1, signed);
            decode(seconds, second.0, *second.1, unsigned);
            for ((value, gradient), (first, second)) in values
                .iter_mut()
                .zip(gradients)
                .zip(firsts.iter_mut().zip(seconds.iter_mut()))
            {
                self.update.apply(value, gradient, first, second);
            }
            *first.1 = encode(first.0, firsts, signed);
            *second.1 = encode(second.0, seconds, unsigned);
        }
    }
}

#[inline(always)]
fn decode(numbers: &mut [f32], codes: &[u8], scale: f32, map: &DynamicMap) {
    for (number, code) in numbers.iter_mut().zip(codes) {
        *number = map.value(*code) * scale;
    }
}

/// Writes the codes of `numbers` and returns their scale.
#[inline(always)]
fn encode(codes: &mut [u8], numbers: &[f32], map: &DynamicMap) -> f32 {
    let scale = numbers
        .iter()
        .fold(0.0_f32, |largest, number| largest.max(number.abs()));
    // In a block of zeros every number has the code of 0.
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (code, number) in codes.iter_mut().zip(numbers) {
        *code = map.code(number * inverse);
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::NewParameter;

    fn parameters() -> Parameters {
        // The second block of the large tensor is not whole.
        Parameters::zeros(vec![
            NewParameter::new("small".into(), vec![63, 65]),
            NewParameter::new("embedding".into(), vec![64, 64]).sparse(),
            NewParameter::new("large".into(), vec![4100]),
        ])
        .unwrap()
    }

    fn step(optimizer: &mut AdamW8bit, parameters: &mut Parameters, factor: f32) {
        let (_, gradients) = parameters.both_mut().unwrap();
        for (index, gradient) in gradients.iter_mut().enumerate() {
            *gradient = factor * (index as f32 * 0.37).sin();
        }
        optimizer.step(parameters, 1e-2, 0.0).unwrap();
    }

    #[test]
    fn small_tensors_and_embeddings_keep_fp32_and_blocks_start_anew() {
        let optimizer = AdamW8bit::new(&parameters(), 0.0);
        assert_eq!(optimizer.first.dense.len(), 63 * 65 + 64 * 64);
        assert_eq!(optimizer.first.codes.len(), 4100);
        assert_eq!(optimizer.first.scales.len(), 17);
    }

    #[test]
    fn a_step_depends_on_no_number_of_another_block() {
        let ends = |factor: f32| {
            let mut parameters = parameters();
            let mut optimizer = AdamW8bit::new(&parameters, 0.0);
            for _ in 0..3 {
                let (_, gradients) = parameters.both_mut().unwrap();
                for (index, gradient) in gradients.iter_mut().enumerate() {
                    *gradient = (index as f32 * 0.37).sin();
                }
                *gradients.last_mut().unwrap() *= factor;
                optimizer.step(&mut parameters, 1e-2, 0.0).unwrap();
            }
            parameters.values().unwrap().to_vec()
        };
        let (one, other) = (ends(1.0), ends(1000.0));
        let last_block = one.len() - 4;
        assert_eq!(one[..last_block], other[..last_block]);
        assert_ne!(one[last_block..], other[last_block..]);
    }

    #[test]
    fn a_gradient_of_zero_moves_nothing() {
        let mut parameters = parameters();
        let mut optimizer = AdamW8bit::new(&parameters, 0.0);
        step(&mut optimizer, &mut parameters, 0.0);
        assert!(
            parameters
                .values()
                .unwrap()
                .iter()
                .all(|value| *value == 0.0)
        );
    }
}
