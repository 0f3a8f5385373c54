//! What is trained: a base and, unless all of it is, the adapter on it.
//!
//! The one place that knows that `full` keeps its parameters in the base and `lora` and `qlora` in the adapter.

use finetune_dataset::{TokenizedRow, micro_batches};
use finetune_numerics::adapter::Lora;
use finetune_numerics::model::{Base, Batch, EmbeddingNoise, LoadOptions, Row, Storage};
use finetune_numerics::ops::cross_entropy::LossSum;
use finetune_numerics::ops::random::Draw;
use finetune_numerics::optimizer::Parameters;
use tch::Kind;

use crate::base::BaseModelFiles;
use crate::device::compute_kind;
use crate::failure::Failure;
use crate::manifest_file::Job;
use crate::numbers;

use super::inputs::Inputs;
use super::preference::Preference;

/// A model in training.
#[derive(Debug)]
pub struct Trainee {
    /// The base; with method `full` it is what is trained.
    pub base: Base,
    /// The adapter.
    pub lora: Option<Lora>,
    /// What is random in its training.
    pub chance: Chance,
    /// What is learnt is which of two answers is preferred; `None`: to say what the rows say.
    pub preference: Option<Preference>,
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

    fn add(&mut self, sum: &LossSum) {
        self.sum += sum.loss;
        self.right += sum.correct as u64;
    }
}

impl Trainee {
    /// Loads the base as the method holds it, and starts the adapter as PEFT does, or takes over the one to go on from.
    pub(crate) fn load(job: &Job, inputs: &Inputs, compute: Kind) -> Result<Self, Failure> {
        let base = load_base_in(compute, job, &inputs.base)?;
        let seed = job.spec.training.seed as u64;
        let settings = job.lora();
        let preference = preference(job, inputs)?;
        let lora = match (&settings, inputs.read_initial_adapter()?) {
            (Some(_), Some(lora)) => Some(lora),
            (Some(settings), None) => {
                let mut lora = Lora::new(base.config(), &numbers::lora(settings), seed)?;
                base.start_magnitudes(&mut lora)?;
                Some(lora)
            }
            (None, _) => None,
        };
        Ok(Self {
            base,
            lora,
            preference,
            chance: Chance {
                seed,
                dropout: settings.map_or(0.0, |settings| settings.dropout),
                noise_alpha: job.spec.training.neftune_noise_alpha,
            },
        })
    }

    /// Adds the gradient of the mean loss over `rows` of `data`, each a list of documents, to the parameters',
    /// `micro_batch_size` rows at a time. `step` is the optimiser step, from 0, by which dropout and noise are drawn. For
    /// preferences `rows` are pairs, and each answer is a pass.
    ///
    /// The mean is taken over the unmasked tokens of all rows together, and each row is computed as if it stood alone, also
    /// where frequencies of the rotation depend on its length: so the result does not depend on how they were cut into
    /// passes, but for what is random.
    pub fn accumulate_gradient(
        &mut self,
        data: &[TokenizedRow],
        rows: &[Vec<usize>],
        micro_batch_size: usize,
        step: u64,
    ) -> Result<Loss, Failure> {
        let loss = self.accumulate_gradient_while(data, rows, micro_batch_size, step, &|| true)?;
        loss.ok_or_else(left_without_reason)
    }

    /// The same, but `goes_on` is asked before each pass. Once it says no, `None`: the gradient is that of a part of the
    /// rows, and good for nothing.
    pub fn accumulate_gradient_while(
        &mut self,
        data: &[TokenizedRow],
        rows: &[Vec<usize>],
        micro_batch_size: usize,
        step: u64,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Loss>, Failure> {
        if let Some(preference) = self.preference.take() {
            let rows = &rows.concat();
            let loss = self.accumulate_preference_gradient(&preference, data, rows, step, goes_on);
            self.preference = Some(preference);
            return loss;
        }
        let mut loss = counted(data, rows.iter().flatten());
        let scale = 1.0 / loss.trainable_tokens.max(1) as f64;
        let passes = micro_batches(rows, data, micro_batch_size);
        let count = passes.len();
        for (pass, rows) in passes.into_iter().enumerate() {
            if !goes_on() {
                return Ok(None);
            }
            tracing::debug!("step {}: pass {} of {count}", step + 1, pass + 1);
            let batch = batch(data, &rows, self.layout())?;
            self.draw(step, pass as u64);
            loss.add(
                &self
                    .base
                    .loss_and_gradient(self.lora.as_mut(), &batch, scale)?,
            );
        }
        self.stop_drawing();
        Ok(Some(loss))
    }

    /// Decides all that is random in the next pass.
    pub(super) fn draw(&mut self, step: u64, micro_batch: u64) {
        let Chance {
            seed,
            dropout,
            noise_alpha,
        } = self.chance;
        let draw = Draw {
            seed,
            step,
            micro_batch,
        };
        if let Some(lora) = &mut self.lora {
            lora.set_dropout(dropout, draw);
        }
        let noise = noise_alpha.map(|alpha| EmbeddingNoise { alpha, draw });
        self.base.set_noise(noise);
        self.base.set_dropout(Some(draw));
    }

    /// Nothing is random in validation.
    pub(super) fn stop_drawing(&mut self) {
        if let Some(lora) = &mut self.lora {
            lora.stop_dropout();
        }
        self.base.set_noise(None);
        self.base.set_dropout(None);
    }

    /// The loss of all of `data`, without gradients.
    pub fn loss(&self, data: &[TokenizedRow], micro_batch_size: usize) -> Result<Loss, Failure> {
        let loss = self.loss_while(data, micro_batch_size, &|| true)?;
        loss.ok_or_else(left_without_reason)
    }

    /// The same, but `goes_on` is asked before each pass. Once it says no, `None`.
    pub fn loss_while(
        &self,
        data: &[TokenizedRow],
        micro_batch_size: usize,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Loss>, Failure> {
        if let Some(preference) = &self.preference {
            return self.preference_loss(preference, data, goes_on);
        }
        let rows: Vec<Vec<usize>> = (0..data.len()).map(|row| vec![row]).collect();
        let mut loss = counted(data, rows.iter().flatten());
        let passes = micro_batches(&rows, data, micro_batch_size);
        let count = passes.len();
        for (pass, rows) in passes.into_iter().enumerate() {
            if !goes_on() {
                return Ok(None);
            }
            tracing::debug!("validation: pass {} of {count}", pass + 1);
            let batch = batch(data, &rows, Layout::EndToEnd)?;
            loss.add(&self.base.loss(self.lora.as_ref(), &batch)?);
        }
        Ok(Some(loss))
    }

    /// NEFTune's noise depends on the length of the rows of a pass, as transformers pads them.
    const fn layout(&self) -> Layout {
        match self.chance.noise_alpha {
            None => Layout::EndToEnd,
            Some(_) => Layout::Padded,
        }
    }

    /// What is trained.
    pub fn parameters(&self) -> Result<&Parameters, Failure> {
        match &self.lora {
            Some(lora) => Ok(lora.parameters()),
            None => self.base.parameters().ok_or_else(nothing_to_train),
        }
    }

    /// What is trained, to be written.
    pub fn parameters_mut(&mut self) -> Result<&mut Parameters, Failure> {
        match &mut self.lora {
            Some(lora) => Ok(lora.parameters_mut()),
            None => self.base.parameters_mut().ok_or_else(nothing_to_train),
        }
    }
}

/// What the job's preferences are measured against: the base, with the adapter that the job goes on from.
pub(crate) fn preference(job: &Job, inputs: &Inputs) -> Result<Option<Preference>, Failure> {
    job.spec
        .preference()
        .map(|dpo| Ok(Preference::new(dpo.beta, inputs.read_initial_adapter()?)))
        .transpose()
}

/// The base as the job's method holds it, in the type that is best here.
pub(crate) fn load_base(job: &Job, base: &BaseModelFiles) -> Result<Base, Failure> {
    load_base_in(compute_kind(job.spec.training.compute_type), job, base)
}

/// The same, computing in `compute`.
fn load_base_in(compute: Kind, job: &Job, base: &BaseModelFiles) -> Result<Base, Failure> {
    let storage = match (&job.spec.method.full, job.quantization()) {
        (Some(_), _) => Storage::Trained,
        (None, Some(quantization)) => Storage::FourBit {
            code: numbers::code(quantization.type_),
            double_quantization: quantization.double_quantization,
        },
        (None, None) => Storage::Frozen,
    };
    Ok(Base::load(
        base.config(),
        base.weights()?.as_ref(),
        &LoadOptions { compute, storage },
    )?)
}

fn left_without_reason() -> Failure {
    Failure::internal("a pass over the data was left though nobody asked for it")
}

fn nothing_to_train() -> Failure {
    Failure::internal("the model has no trainable parameters")
}

/// Tokens of the rows, and those of them that carry loss.
fn counted<'a>(data: &[TokenizedRow], rows: impl Iterator<Item = &'a usize>) -> Loss {
    let rows = rows.map(|row| &data[*row]);
    rows.fold(Loss::default(), |loss, row| Loss {
        tokens: loss.tokens + row.tokens.len() as u64,
        terms: loss.terms + row.trainable() as u64,
        trainable_tokens: loss.trainable_tokens + row.trainable() as u64,
        ..loss
    })
}

/// A row as a batch takes it.
pub(super) fn batch_row(row: &TokenizedRow) -> Row<'_> {
    Row {
        tokens: &row.tokens,
        loss: &row.loss,
    }
}

/// How the rows of a pass lie in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Layout {
    /// All in one row, each a document of it: nothing is computed of padding.
    EndToEnd,
    /// Each by itself, padded to the longest.
    Padded,
}

fn batch(data: &[TokenizedRow], rows: &[Vec<usize>], layout: Layout) -> Result<Batch, Failure> {
    let row = |documents: &[usize]| -> Vec<Row<'_>> {
        let rows = documents.iter().map(|row| batch_row(&data[*row]));
        rows.collect()
    };
    let rows: Vec<_> = match layout {
        Layout::EndToEnd => vec![row(&rows.concat())],
        Layout::Padded => rows.iter().map(|documents| row(documents)).collect(),
    };
    Ok(Batch::packed(&rows)?)
}
