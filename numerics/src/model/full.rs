//! Full fine-tuning: every weight of the model is a parameter, held in fp32 whatever the type of the activations.

use crate::architecture::ModelConfig;
use crate::ops::Result;
use crate::optimizer::{NewParameter, Parameters};

/// A place for every weight of the model, by its Hugging Face name, in the model's order; all zero. A tied output matrix has
/// no place of its own.
pub(super) fn parameters(config: &ModelConfig) -> Result<Parameters> {
    let embedding = config.embedding_name();
    let parameter = |(name, shape)| {
        let is_embedding = name == embedding;
        let parameter = NewParameter::new(name, shape);
        match is_embedding {
            true => parameter.sparse(),
            false => parameter,
        }
    };
    Parameters::zeros(config.tensors().into_iter().map(parameter).collect())
}
