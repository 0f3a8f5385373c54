//! What is trained: a base or an adapter on it, what it learns, and what is random in that.
//!
//! The one place that knows that `full` keeps its parameters in the base and `lora` and `qlora` in the adapter.

use finetune_dataset::{MicroBatchSize, TokenizedRow};
use finetune_numerics::adapter::Lora;
use finetune_numerics::model::{Base, LoadOptions, Storage};
use finetune_numerics::optimizer::Parameters;
use tch::Kind;

use crate::base::BaseModelFiles;
use crate::device::compute_kind;
use crate::failure::Failure;
use crate::job::{AdapterSettings, Job, TrainingMethod, TrainingObjective};
use crate::objective::{Chance, Dpo, GoesOn, Loss, Model, Objective, StepRows};

use super::inputs::Inputs;

/// A model in training.
#[derive(Debug)]
pub struct Trainee {
    /// The model, and which of it is trained.
    pub trained: Trained,
    /// What is random in its training.
    pub chance: Chance,
    /// What it learns.
    pub objective: Objective,
}

/// A model with something to train.
#[derive(Debug)]
pub enum Trained {
    /// All of a base.
    All {
        /// The base, whose weights are views of the parameters.
        base: Base,
        /// What is trained.
        parameters: Parameters,
    },
    /// An adapter on a base that stays as it is.
    Adapter {
        /// The base.
        base: Base,
        /// The adapter.
        lora: Lora,
        /// What it was made by.
        settings: AdapterSettings,
    },
}

impl Trained {
    /// The model as passes see it.
    pub const fn model(&self) -> Model<'_> {
        match self {
            Self::All { base, .. } => Model { base, lora: None },
            Self::Adapter { base, lora, .. } => Model {
                base,
                lora: Some(lora),
            },
        }
    }

    /// What is trained.
    pub const fn parameters(&self) -> &Parameters {
        match self {
            Self::All { parameters, .. } => parameters,
            Self::Adapter { lora, .. } => lora.parameters(),
        }
    }

    /// What is trained, to be written.
    pub const fn parameters_mut(&mut self) -> &mut Parameters {
        match self {
            Self::All { parameters, .. } => parameters,
            Self::Adapter { lora, .. } => lora.parameters_mut(),
        }
    }
}

impl Trainee {
    /// Loads the base as the method holds it, and starts the adapter as PEFT does, or takes over the one to go on from. `seed` is
    /// the run's.
    pub(crate) fn load(
        job: &Job,
        inputs: &Inputs,
        compute: Kind,
        seed: u64,
    ) -> Result<Self, Failure> {
        let (trained, dropout) = match &job.method {
            TrainingMethod::Full => {
                let (config, weights) = (inputs.base.config(), inputs.base.weights()?);
                let (base, parameters) = Base::load_trained(config, weights.as_ref(), compute)?;
                (Trained::All { base, parameters }, 0.0)
            }
            TrainingMethod::Lora(settings)
            | TrainingMethod::Qlora {
                adapter: settings, ..
            } => {
                let base = load_base_in(compute, job, &inputs.base)?;
                let lora = match inputs.read_initial_adapter()? {
                    Some(lora) => lora,
                    None => fresh_adapter(&base, settings, seed)?,
                };
                let settings = settings.clone();
                let dropout = settings.dropout;
                let trained = Trained::Adapter {
                    base,
                    lora,
                    settings,
                };
                (trained, dropout)
            }
        };
        Ok(Self {
            trained,
            chance: Chance {
                seed,
                dropout,
                noise_alpha: job.spec.training.neftune_noise_alpha,
            },
            objective: objective(job, inputs)?,
        })
    }

    /// Adds the gradient of the mean loss over the rows of a step to the parameters'. `goes_on` is asked before each pass; once it
    /// says no, `None`: the gradient is that of a part of the rows, and good for nothing.
    pub fn accumulate_gradient(
        &mut self,
        rows: StepRows<'_>,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Loss>, Failure> {
        let model = self.trained.model();
        self.objective
            .accumulate_gradient(model, self.chance, rows, goes_on)
    }

    /// The loss of all of `data`, without gradients. `goes_on` is asked before each pass; once it says no, `None`.
    pub fn loss(
        &mut self,
        data: &[TokenizedRow],
        micro_batch_size: MicroBatchSize,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Loss>, Failure> {
        let model = self.trained.model();
        self.objective.loss(model, data, micro_batch_size, goes_on)
    }

    /// What is trained.
    pub const fn parameters(&self) -> &Parameters {
        self.trained.parameters()
    }

    /// What is trained, to be written.
    pub const fn parameters_mut(&mut self) -> &mut Parameters {
        self.trained.parameters_mut()
    }
}

/// An adapter that changes nothing yet.
fn fresh_adapter(base: &Base, settings: &AdapterSettings, seed: u64) -> Result<Lora, Failure> {
    let mut lora = Lora::new(base.config(), &settings.lora, seed)?;
    base.start_magnitudes(&mut lora)?;
    Ok(lora)
}

/// What the job learns; preferences are measured against the base, with the adapter that the job goes on from.
pub(crate) fn objective(job: &Job, inputs: &Inputs) -> Result<Objective, Failure> {
    Ok(match job.objective {
        TrainingObjective::Sft => Objective::Sft,
        TrainingObjective::Dpo { beta } => {
            Objective::Dpo(Dpo::new(beta, inputs.read_initial_adapter()?))
        }
    })
}

/// The base as the job's method holds it, in the type that is best here.
pub(crate) fn load_base(job: &Job, base: &BaseModelFiles) -> Result<Base, Failure> {
    load_base_in(compute_kind(job.spec.training.compute_type), job, base)
}

/// The same, computing in `compute`.
fn load_base_in(compute: Kind, job: &Job, base: &BaseModelFiles) -> Result<Base, Failure> {
    let storage = match &job.method {
        TrainingMethod::Full => Storage::Trained,
        TrainingMethod::Lora(_) => Storage::Frozen,
        TrainingMethod::Qlora { quantization, .. } => Storage::FourBit {
            code: quantization.code,
            double_quantization: quantization.double_quantization,
        },
    };
    Ok(Base::load(
        base.config(),
        base.weights()?.as_ref(),
        &LoadOptions { compute, storage },
    )?)
}
