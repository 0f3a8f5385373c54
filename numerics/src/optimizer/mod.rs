//! From gradients to parameters: one flat buffer, clipping, AdamW, and the learning rate of each step.
//!
//! Nothing in here knows what the parameters mean, and nothing reads a clock or draws a random number.

mod adamw;
mod adamw_8bit;
mod clip;
mod dynamic_map;
mod parameters;
mod schedule;

pub use adamw::AdamW;
pub use adamw_8bit::AdamW8bit;
pub use dynamic_map::DynamicMap;
pub use parameters::{NewParameter, Parameter, Parameters};
pub use schedule::{Schedule, learning_rate};

use crate::ops::profile::{Operation, timed};
use crate::ops::{Error, Result};

/// An optimiser and its state.
#[derive(Clone, Debug, PartialEq)]
pub enum Optimizer {
    /// With fp32 moments.
    AdamW(AdamW),
    /// With 8-bit moments.
    AdamW8bit(Box<AdamW8bit>),
}

/// Which optimiser.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OptimizerKind {
    /// AdamW with its moments in fp32.
    AdamW,
    /// AdamW with its moments in 8 bits.
    AdamW8bit,
}

/// A part of an optimiser's state. It is plain data, so that a checkpoint can save and restore it.
#[derive(Clone, Copy, Debug)]
pub enum State<'a> {
    /// Numbers.
    Float(&'a [f32]),
    /// 8-bit codes.
    Code(&'a [u8]),
}

/// The same, to be written.
#[derive(Debug)]
pub enum StateMut<'a> {
    /// Numbers.
    Float(&'a mut [f32]),
    /// 8-bit codes.
    Code(&'a mut [u8]),
}

impl State<'_> {
    /// Its bytes, little-endian, as every machine that libtorch runs on.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Float(numbers) => bytemuck::cast_slice(numbers),
            Self::Code(codes) => codes,
        }
    }
}

impl Optimizer {
    /// A fresh optimiser for these parameters.
    pub fn new(kind: OptimizerKind, parameters: &Parameters, weight_decay: f64) -> Self {
        match kind {
            OptimizerKind::AdamW => Self::AdamW(AdamW::new(parameters.count(), weight_decay)),
            OptimizerKind::AdamW8bit => {
                Self::AdamW8bit(Box::new(AdamW8bit::new(parameters, weight_decay)))
            }
        }
    }

    /// The steps taken.
    pub fn steps(&self) -> u64 {
        match self {
            Self::AdamW(adamw) => adamw.steps,
            Self::AdamW8bit(adamw) => adamw.steps,
        }
    }

    /// Moves the parameters by one step along their gradients, scaled down to a Euclidean norm of at most `max_norm` (0 clips
    /// nothing), and returns the norm that they had. The gradients are zeros afterwards: the start of the next step.
    ///
    /// Where the norm is no finite number, nothing is moved and it is no step: the caller ends the run. Cost: each number of the
    /// gradients is read twice, each parameter and each number of the state is read and written once.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        learning_rate: f64,
        max_norm: f64,
    ) -> Result<f64> {
        timed(Operation::Optimizer, || match self {
            Self::AdamW(adamw) => adamw.step(parameters, learning_rate, max_norm),
            Self::AdamW8bit(adamw) => adamw.step(parameters, learning_rate, max_norm),
        })
    }

    /// Its state by name, without the parts that are empty.
    pub fn state(&self) -> Vec<(&'static str, State<'_>)> {
        let mut state = match self {
            Self::AdamW(adamw) => adamw.state(),
            Self::AdamW8bit(adamw) => adamw.state(),
        };
        state.retain(|(_, part)| !part.bytes().is_empty());
        state
    }

    /// Puts back the state after `steps` steps; `saved` lends the bytes of each part of [`Self::state`].
    pub fn restore<'a>(
        &mut self,
        steps: u64,
        saved: impl Fn(&str) -> Option<&'a [u8]>,
    ) -> Result<()> {
        let parts = match self {
            Self::AdamW(adamw) => {
                adamw.steps = steps;
                adamw.state_mut()
            }
            Self::AdamW8bit(adamw) => {
                adamw.steps = steps;
                adamw.state_mut()
            }
        };
        for (name, part) in parts {
            let own: &mut [u8] = match part {
                StateMut::Float(numbers) => bytemuck::cast_slice_mut(numbers),
                StateMut::Code(codes) => codes,
            };
            let saved = saved(name).unwrap_or_default();
            if saved.len() != own.len() {
                return Err(Error::Input(format!(
                    "the optimiser's {name} has {} bytes, expected {}: it belongs to another run",
                    saved.len(),
                    own.len()
                )));
            }
            own.copy_from_slice(saved);
        }
        Ok(())
    }
}
