//! One pass over the layers, forwards or backwards: what all of them share.

use super::randomness::Randomness;
use crate::adapter::Lora;
use crate::architecture::ModelConfig;
use crate::ops::linear::Scratch;
use crate::ops::random::Draw;
use crate::ops::rotation::Rotation;

/// What all layers of a pass share.
pub(super) struct Pass<'a> {
    pub(super) config: &'a ModelConfig,
    /// By `ModelConfig::ropes`.
    pub(super) rotations: Vec<Rotation>,
    /// Where rows are packed: the lengths of the documents of each row.
    pub(super) documents: Option<&'a [Vec<i64>]>,
    /// The adapters, of all rows.
    pub(super) riders: &'a [Rider<'a>],
    /// What is random, in training.
    pub(super) random: Option<Randomness>,
    pub(super) scratch: &'a mut Scratch,
    /// B and T.
    pub(super) shape: (i64, i64),
}

impl Pass<'_> {
    /// What the attention's dropout is drawn from, in training a base that has one.
    pub(super) fn attention_draw(&self) -> Option<Draw> {
        let random = self.random.filter(|_| self.config.attention_dropout > 0.0);
        random.map(|random| random.draw)
    }
}

/// Consecutive rows of a pass, and the adapter that rides on the base for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rider<'a> {
    /// Rows (of M), behind those of the riders before.
    pub(super) rows: i64,
    pub(super) adapter: Option<&'a Lora>,
}
