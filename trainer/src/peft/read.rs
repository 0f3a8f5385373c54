//! Reads an adapter folder, and refuses one that does not fit the base model whole.

use std::collections::BTreeMap;
use std::path::Path;

use finetune_artifacts::safetensors_file::{Dtype, SafetensorsFile, TensorView};
use finetune_crds::contract::layout::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use tch::{Kind, Tensor};

use super::{AdapterConfig, Error};
use crate::method::Lora;
use crate::model::{ModelConfig, Projection};

/// An adapter that was read.
#[derive(Debug)]
pub struct Adapter {
    /// What its configuration says.
    pub config: AdapterConfig,
    /// Its weights.
    pub lora: Lora,
}

/// Reads the adapter in `folder` for the model `model`.
pub fn read(folder: &Path, model: &ModelConfig) -> Result<Adapter, Error> {
    let path = folder.join(ADAPTER_CONFIG);
    let bytes = std::fs::read(&path).map_err(|source| Error::Io {
        path: path.clone(),
        source,
    })?;
    let config = AdapterConfig::parse(&bytes, &path)?;
    let file = SafetensorsFile::open(&folder.join(ADAPTER_WEIGHTS))?;
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let view = file.tensor(name)?;
        let tensor = tensor(&view, &config, name).map_err(|message| Error::Tensor {
            path: file.path().to_owned(),
            name: name.to_owned(),
            message,
        })?;
        tensors.insert(name.to_owned(), tensor);
    }
    check_complete(&config, model, &file)?;
    let lora = Lora::from_tensors(model, config.scaling(), &tensors)?;
    Ok(Adapter { config, lora })
}

/// A tensor whose type, rank and values were checked. Its other dimension is the model's to check.
fn tensor(view: &TensorView<'_>, config: &AdapterConfig, name: &str) -> Result<Tensor, String> {
    let kind = match view.dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        other => return Err(format!("has type {other:?}, expected F32, F16 or BF16")),
    };
    let rank = match *view.shape {
        [rank, _] if name.ends_with(".lora_A.weight") => rank,
        [_, rank] if name.ends_with(".lora_B.weight") => rank,
        _ => {
            return Err(format!(
                "of shape {:?} is neither a `.lora_A.weight` nor a `.lora_B.weight`, which is all that is supported",
                view.shape
            ));
        }
    };
    if rank as i64 != config.rank {
        return Err(format!(
            "has shape {:?}, expected the rank {} that {ADAPTER_CONFIG} says",
            view.shape, config.rank
        ));
    }
    let shape: Vec<i64> = view.shape.iter().map(|size| *size as i64).collect();
    let fault = |error: tch::TchError| error.to_string();
    let tensor = Tensor::f_from_data_size(view.bytes, &shape, kind)
        .and_then(|tensor| tensor.f_to_kind(Kind::Float))
        .map_err(fault)?;
    let finite = tensor
        .f_isfinite()
        .and_then(|finite| finite.f_all())
        .and_then(|all| all.f_int64_value(&[]))
        .map_err(fault)?;
    if finite == 0 {
        return Err(
            "holds NaN or infinity, expected finite numbers: the training diverged".to_owned(),
        );
    }
    Ok(tensor)
}

/// That each targeted module has both matrices, and no other module any: PEFT would start a missing one at random.
fn check_complete(
    config: &AdapterConfig,
    model: &ModelConfig,
    file: &SafetensorsFile,
) -> Result<(), Error> {
    let modules = (0..model.layers).flat_map(|layer| {
        let module = move |projection: &Projection| projection.module(model, layer);
        model.projections().iter().map(module)
    });
    for module in modules {
        for side in ["A", "B"] {
            let name = format!("base_model.model.{module}.lora_{side}.weight");
            let message = match (config.targets(&module), file.tensor(&name).is_ok()) {
                (true, false) => "is missing, though `target_modules` names its module",
                (false, true) => "is there, though `target_modules` does not name its module",
                (true, true) | (false, false) => continue,
            };
            return Err(Error::Tensor {
                path: file.path().to_owned(),
                name,
                message: message.to_owned(),
            });
        }
    }
    Ok(())
}
