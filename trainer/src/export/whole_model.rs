//! A whole model as a folder that transformers loads: the base's configuration and tokenizer, and the trained weights
//! in the types in which the base stores them.

use std::path::Path;

use finetune_artifacts::safetensors_file::{self, Dtype, TensorData};
use tch::{Kind, Tensor};

use crate::failure::Failure;
use crate::model::Base;
use crate::train::inputs::Inputs;

/// The weights' file.
const WEIGHTS: &str = "model.safetensors";

/// Writes the files of the trained `base` into `folder`.
pub(super) fn write(folder: &Path, inputs: &Inputs, base: &Base) -> Result<(), Failure> {
    for (name, content) in inputs.base.companions()? {
        std::fs::write(folder.join(name), content)?;
    }
    let parameters = base
        .parameters()
        .ok_or_else(|| Failure::internal("the model has no trained weights to write"))?;
    let stored = inputs.base.weights()?;
    let mut tensors = Vec::new();
    for parameter in parameters.list() {
        let kind = stored.tensor(&parameter.name)?.f_kind()?;
        let (dtype, bytes) = bytes_of(&parameters.value(parameter)?, kind)?;
        let shape: Vec<usize> = parameter.shape.iter().map(|size| *size as usize).collect();
        tensors.push((parameter.name.as_str(), dtype, shape, bytes));
    }
    let data = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            *name,
            TensorData {
                dtype: *dtype,
                shape,
                bytes,
            },
        )
    });
    safetensors_file::write(&folder.join(WEIGHTS), data, Some(("format", "pt")))
        .map_err(Failure::internal)
}

/// A tensor in another type, as bytes. A type that a trained weight cannot have becomes fp32.
fn bytes_of(tensor: &Tensor, kind: Kind) -> Result<(Dtype, Vec<u8>), Failure> {
    let (dtype, kind, width) = match kind {
        Kind::BFloat16 => (Dtype::BF16, kind, 2),
        Kind::Half => (Dtype::F16, kind, 2),
        _ => (Dtype::F32, Kind::Float, 4),
    };
    let tensor = tensor.f_to_kind(kind)?.f_contiguous()?;
    let mut bytes = vec![0; tensor.numel() * width];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok((dtype, bytes))
}
