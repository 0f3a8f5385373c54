//! Reads an adapter folder, and refuses one that does not fit the base model whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::safetensors_file::{Dtype, SafetensorsFile, TensorView};
use finetune_artifacts::uri::Location;
use finetune_crds::contract::layout::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use finetune_numerics::adapter::{Lora, Scheme};
use finetune_numerics::architecture::{ModelConfig, Projection};
use tch::{Kind, Tensor};

use super::{AdapterConfig, Error};

/// What stands before a module's name in the names of its tensors.
const PREFIX: &str = "base_model.model.";
/// What stands behind it: A, B, the magnitudes.
const PARTS: [&str; 3] = [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"];

/// An adapter that was read.
#[derive(Debug)]
pub struct Adapter {
    /// What its configuration says.
    pub config: AdapterConfig,
    /// Its weights.
    pub lora: Lora,
}

/// A local copy of the adapter folder at `uri`, which may be a path too.
pub async fn fetch(
    uri: &str,
    credentials: &Credentials,
    cache: &Cache,
) -> Result<PathBuf, finetune_artifacts::Error> {
    let uri = Location::parse_folder(uri)?.to_string();
    let wanted = |path: &str| matches!(path, ADAPTER_CONFIG | ADAPTER_WEIGHTS);
    cache.directory(&uri, credentials, wanted).await
}

/// Reads the adapter in `folder` for the model `model`.
pub fn read(folder: &Path, model: &ModelConfig) -> Result<Adapter, Error> {
    let path = folder.join(ADAPTER_CONFIG);
    let bytes = std::fs::read(&path).map_err(|source| Error::Io {
        path: path.clone(),
        source,
    })?;
    let config = AdapterConfig::parse(&bytes, &path)?;
    let scheme = config
        .scheme()
        .map_err(|message| Error::Config { path, message })?;
    let file = SafetensorsFile::open(&folder.join(ADAPTER_WEIGHTS))?;
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let view = file.tensor(name)?;
        let tensor = tensor(&view, &scheme, name).map_err(|message| Error::Tensor {
            path: file.path().to_owned(),
            name: name.to_owned(),
            message,
        })?;
        tensors.insert(name.to_owned(), tensor);
    }
    check_complete(&config, model, &file)?;
    let lora = Lora::from_tensors(model, &|module| scheme.scaling_of(module), &tensors)?;
    Ok(Adapter { config, lora })
}

/// A tensor whose type, rank and values were checked. Its other dimension is the model's to check.
fn tensor(view: &TensorView<'_>, scheme: &Scheme, name: &str) -> Result<Tensor, String> {
    let kind = match view.dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        other => return Err(format!("has type {other:?}, expected F32, F16 or BF16")),
    };
    let (module, part) = PARTS
        .iter()
        .find_map(|part| Some((name.strip_suffix(part)?, *part)))
        .unwrap_or_default();
    let rank = match *view.shape {
        [rank, _] if part == PARTS[0] => Some(rank),
        [_, rank] if part == PARTS[1] => Some(rank),
        [_] if part == PARTS[2] => None,
        _ => {
            return Err(format!(
                "of shape {:?} is no `{}`, no `{}` and no `{}`, which is all that is supported",
                view.shape, PARTS[0], PARTS[1], PARTS[2]
            ));
        }
    };
    let expected = scheme.rank_of(module.strip_prefix(PREFIX).unwrap_or(module));
    if rank.is_some_and(|rank| rank as i64 != expected) {
        return Err(format!(
            "has shape {:?}, expected the rank {expected} that {ADAPTER_CONFIG} says",
            view.shape
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

/// That each targeted module has all its tensors, and no other module any: PEFT would start a missing one at random.
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
        for part in PARTS {
            let name = format!("{PREFIX}{module}{part}");
            let is_magnitude = part == PARTS[2];
            let wanted = config.targets(&module) && (config.dora || !is_magnitude);
            let message = match (wanted, file.tensor(&name).is_ok()) {
                (true, false) if is_magnitude => "is missing, though `use_dora` is true",
                (false, true) if is_magnitude && !config.dora => {
                    "is there, though `use_dora` is false"
                }
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
