//! What is trained: a base and, unless all of it is, the adapter on it.
//!
//! The one place that knows that `full` keeps its parameters in the base and `lora` and `qlora` in the adapter.

use finetune_dataset::TokenizedRow;
use finetune_numerics::adapter::Lora;
use finetune_numerics::model::{Base, LoadOptions, Storage};
use finetune_numerics::optimizer::Parameters;
use tch::Kind;

use crate::base::BaseModelFiles;
use crate::device::compute_kind;
use crate::failure::Failure;
use crate::manifest_file::Job;
use crate::numbers;
use crate::objective::{Chance, Dpo, GoesOn, Loss, Model, Objective, StepRows};

use super::inputs::Inputs;

/// A model in training.
#[derive(Debug)]
pub struct Trainee {
    /// The base; with method `full` it is what is trained.
    pub base: Base,
    /// The adapter.
    pub lora: Option<Lora>,
    /// What is random in its training.
    pub chance: Chance,
    /// What it learns.
    pub objective: Objective,
}

impl Trainee {
    /// Loads the base as the method holds it, and starts the adapter as PEFT does, or takes over the one to go on from.
    pub(crate) fn load(job: &Job, inputs: &Inputs, compute: Kind) -> Result<Self, Failure> {
        let base = load_base_in(compute, job, &inputs.base)?;
        let seed = job.spec.training.seed as u64;
        let settings = job.lora();
        let objective = objective(job, inputs)?;
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
            objective,
            chance: Chance {
                seed,
                dropout: settings.map_or(0.0, |settings| settings.dropout),
                noise_alpha: job.spec.training.neftune_noise_alpha,
            },
        })
    }

    /// Adds the gradient of the mean loss over the rows of a step to the parameters'.
    pub fn accumulate_gradient(&mut self, rows: StepRows<'_>) -> Result<Loss, Failure> {
        let loss = self.accumulate_gradient_while(rows, &|| true)?;
        loss.ok_or_else(left_without_reason)
    }

    /// The same, but `goes_on` is asked before each pass. Once it says no, `None`: the gradient is that of a part of the
    /// rows, and good for nothing.
    pub fn accumulate_gradient_while(
        &mut self,
        rows: StepRows<'_>,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Loss>, Failure> {
        let model = Model {
            base: &self.base,
            lora: self.lora.as_ref(),
        };
        self.objective
            .accumulate_gradient(model, self.chance, rows, goes_on)
    }

    /// The loss of all of `data`, without gradients.
    pub fn loss(
        &mut self,
        data: &[TokenizedRow],
        micro_batch_size: usize,
    ) -> Result<Loss, Failure> {
        let loss = self.loss_while(data, micro_batch_size, &|| true)?;
        loss.ok_or_else(left_without_reason)
    }

    /// The same, but `goes_on` is asked before each pass. Once it says no, `None`.
    pub fn loss_while(
        &mut self,
        data: &[TokenizedRow],
        micro_batch_size: usize,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Loss>, Failure> {
        let model = Model {
            base: &self.base,
            lora: self.lora.as_ref(),
        };
        self.objective.loss(model, data, micro_batch_size, goes_on)
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

/// What the job learns; preferences are measured against the base, with the adapter that the job goes on from.
pub(crate) fn objective(job: &Job, inputs: &Inputs) -> Result<Objective, Failure> {
    Ok(match job.spec.preference() {
        None => Objective::Sft,
        Some(dpo) => Objective::Dpo(Dpo::new(dpo.beta, inputs.read_initial_adapter()?)),
    })
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
