//! What is random in a pass of training: an argument of the pass, so that a model has no state that changes what it computes.

use tch::Tensor;

use crate::ops::Result;
use crate::ops::random::{self, Draw};

/// What a pass of training leaves out and adds by chance. Evaluation and serving pass none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Randomness {
    /// What all of it is drawn from: the same draw, the same pass.
    pub draw: Draw,
    /// The rate at which inputs of adapters are left out, below 1.
    pub adapter_dropout: f64,
    /// alpha of NEFTune's noise on the embedded tokens.
    pub neftune_noise_alpha: Option<f64>,
}

impl Randomness {
    /// The name that the noise is drawn by.
    const NAME: &'static str = "embedding";

    /// Only what the base's own configuration asks for: the dropout of its attention.
    pub const fn of_base(draw: Draw) -> Self {
        Self {
            draw,
            adapter_dropout: 0.0,
            neftune_noise_alpha: None,
        }
    }

    /// NEFTune (Jain et al., 2023): uniform noise within ±alpha / sqrt(T·H) on tokens (B, T) embedded in H dimensions, x (B·T, H).
    pub(super) fn add_noise(&self, x: &mut Tensor, length: i64) -> Result<()> {
        let Some(alpha) = self.neftune_noise_alpha else {
            return Ok(());
        };
        let (_, width) = x.size2()?;
        let magnitude = alpha / ((length * width) as f64).sqrt();
        random::add_noise(x, magnitude, self.draw.key(Self::NAME))
    }
}
