//! What a run learns: how a loss and its gradient come from rows. Each objective is a file.
//!
//! Nothing in here knows steps, files or how parameters are held: a base, an adapter on it or none, and rows.

mod dpo;
mod sft;

use finetune_dataset::{MicroBatchSize, TokenizedRow};
use finetune_numerics::adapter::Lora;
use finetune_numerics::model::{Base, Randomness, Row};
use finetune_numerics::ops::cross_entropy::LossSum;
use finetune_numerics::ops::random::Draw;

pub use dpo::{Dpo, PairLoss, pair_loss};

use crate::failure::Failure;

/// What is learnt.
#[derive(Debug)]
pub enum Objective {
    /// To say what the rows say (supervised fine-tuning).
    Sft,
    /// Which of two answers is preferred. Rows come in pairs.
    Dpo(Dpo),
}

/// A base and the adapter on it, as passes see them.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The base; with method `full` it is what is trained.
    pub base: &'a Base,
    /// The adapter.
    pub lora: Option<&'a Lora>,
}

/// The rows of an optimiser step.
#[derive(Clone, Copy, Debug)]
pub struct StepRows<'a> {
    /// All rows.
    pub data: &'a [TokenizedRow],
    /// The rows of the step, each a list of documents; of preferences, pairs.
    pub rows: &'a [Vec<usize>],
    /// How much of them is computed at a time.
    pub micro_batch_size: MicroBatchSize,
    /// The step, from 0, by which what is random is drawn.
    pub step: u64,
}

impl Objective {
    /// Adds the gradient of the mean loss over the rows of a step to the parameters'. `goes_on` is asked before each pass; once it
    /// says no, `None`: the gradient is that of a part of the rows, and good for nothing.
    pub fn accumulate_gradient(
        &mut self,
        model: Model<'_>,
        chance: Chance,
        rows: StepRows<'_>,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Loss>, Failure> {
        match self {
            Self::Sft => sft::accumulate_gradient(model, chance, rows, goes_on),
            Self::Dpo(dpo) => dpo.accumulate_gradient(model, chance, rows, goes_on),
        }
    }

    /// The loss of all of `data`, without gradients and with nothing random. `goes_on` is asked before each pass; once it says no,
    /// `None`.
    pub fn loss(
        &mut self,
        model: Model<'_>,
        data: &[TokenizedRow],
        micro_batch_size: MicroBatchSize,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Loss>, Failure> {
        match self {
            Self::Sft => sft::loss(model, data, micro_batch_size, goes_on),
            Self::Dpo(dpo) => dpo.loss(model, data, goes_on),
        }
    }
}

/// What is random in a training pass, and the seed that decides it. By default nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Chance {
    /// The run's seed.
    pub seed: u64,
    /// The rate at which inputs of the adapter are left out.
    pub dropout: f64,
    /// NEFTune's alpha.
    pub noise_alpha: Option<f64>,
}

impl Chance {
    /// All that is random in one pass of a step, both from 0.
    const fn of_pass(&self, step: u64, micro_batch: u64) -> Randomness {
        Randomness {
            draw: Draw {
                seed: self.seed,
                step,
                micro_batch,
            },
            adapter_dropout: self.dropout,
            neftune_noise_alpha: self.noise_alpha,
        }
    }
}

/// Whether to go on: asked before each pass over a micro-batch.
pub type GoesOn<'a> = &'a dyn Fn() -> bool;

/// A sum of losses and what it was summed over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// In nats.
    pub sum: f64,
    /// What the mean is taken over: tokens that carry loss, or pairs of answers.
    pub terms: u64,
    /// Tokens that carry loss.
    pub trainable_tokens: u64,
    /// Terms that the model gets right: tokens that it finds likeliest of all, pairs of which it prefers the right answer.
    pub right: u64,
    /// Tokens of the rows.
    pub tokens: u64,
}

impl Loss {
    /// The mean over the tokens that carry loss, or over the pairs.
    pub fn mean(&self) -> f64 {
        self.sum / self.terms.max(1) as f64
    }

    /// The share of the terms that the model gets right.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.terms.max(1) as f64
    }

    /// Adds what passes came to: read once, when all of them are on their way.
    fn add_all(&mut self, passes: Option<LossSum>) -> Result<(), Failure> {
        if let Some(passes) = passes {
            let losses = passes.read()?;
            self.sum += losses.loss;
            self.right += losses.correct as u64;
        }
        Ok(())
    }
}

/// A row as a batch takes it.
fn batch_row(row: &TokenizedRow) -> Row<'_> {
    Row {
        tokens: &row.tokens,
        loss: &row.loss,
    }
}
