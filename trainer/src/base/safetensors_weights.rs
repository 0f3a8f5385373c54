//! The weights of a Hugging Face directory, lent one by one out of mapped files: dense, or in 4 bits as bitsandbytes saves
//! them.
//!
//! The files must hold exactly the tensors that the configuration calls for. A matrix in 4 bits is never made dense here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use finetune_artifacts::finite;
use finetune_artifacts::safetensors_file::{Dtype, SafetensorsFile, TensorView};
use finetune_numerics::architecture::ModelConfig;
use finetune_numerics::model::WeightSource;
use finetune_numerics::ops;
use finetune_numerics::ops::four_bit::FourBitMatrix;
use tch::{Kind, Tensor};

use super::quantization::{BaseQuantization, StoredMatrix, matrix_of, owner_of};
use super::{Error, StoredWeights, hugging_face};

/// The weights of a directory.
#[derive(Debug)]
pub(super) struct Weights {
    files: Vec<SafetensorsFile>,
    /// Where each tensor lies, by its name in the model; of a matrix in 4 bits, its codes.
    places: BTreeMap<String, Place>,
    /// Where that lies which a multimodal model has beside its language model, by its name in the file.
    beside: BTreeMap<String, Place>,
    /// Where each other part of a matrix in 4 bits lies.
    parts: BTreeMap<String, Place>,
    /// The matrices in 4 bits.
    four_bit: BTreeSet<String>,
    quantization: Option<BaseQuantization>,
}

/// Where a tensor lies.
#[derive(Debug)]
struct Place {
    file: usize,
    /// Its name there.
    name: String,
}

impl Weights {
    /// Opens the files and checks that they hold exactly the tensors that the configuration calls for.
    pub(super) fn open(
        folder: &Path,
        config: &ModelConfig,
        quantization: Option<BaseQuantization>,
    ) -> Result<Self, Error> {
        let files = hugging_face::shard_names(folder)?
            .iter()
            .map(|name| SafetensorsFile::open(&folder.join(name)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        let mut beside = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for name in file.names() {
                let known = model_name(name);
                if ignored(&known, config) {
                    continue;
                }
                let place = Place {
                    file: number,
                    name: name.to_owned(),
                };
                if is_of_images(&known, config) {
                    beside.insert(name.to_owned(), place);
                    continue;
                }
                if places.insert(known, place).is_some() {
                    return Err(Error::invalid(
                        folder.display().to_string(),
                        format!("tensor `{name}` is in two files"),
                    ));
                }
            }
        }
        let four_bit: BTreeSet<String> = places
            .keys()
            .filter_map(|name| matrix_of(name).map(str::to_owned))
            .collect();
        if let (Some(name), None) = (four_bit.first(), quantization) {
            return Err(Error::invalid(
                folder.display().to_string(),
                format!(
                    "tensor `{name}` is in 4 bits, but config.json has no `quantization_config`: copy the one that was \
                     saved with the weights"
                ),
            ));
        }
        if quantization.is_some() && four_bit.is_empty() {
            return Err(Error::invalid(
                folder.display().to_string(),
                "config.json has a `quantization_config`, but no tensor is in 4 bits: remove the key, or take the weights that \
                 were saved with it",
            ));
        }
        let is_part = |name: &str| owner_of(name).is_some_and(|owner| four_bit.contains(owner));
        let (parts, places) = places
            .into_iter()
            .partition(|(name, _): &(String, Place)| is_part(name));
        let weights = Self {
            files,
            places,
            beside,
            parts,
            four_bit,
            quantization,
        };
        weights.check(config)?;
        Ok(weights)
    }

    fn check(&self, config: &ModelConfig) -> Result<(), Error> {
        let expected: BTreeMap<String, Vec<i64>> = config.tensors().into_iter().collect();
        for (name, shape) in &expected {
            let Some(place) = self.places.get(name) else {
                return Err(Error::invalid(
                    format!("tensor `{name}`"),
                    format!(
                        "it is missing, expected shape {shape:?}: {} incomplete",
                        self.file_list()
                    ),
                ));
            };
            let file = &self.files[place.file];
            let fault = |message: String| {
                let origin = format!("{}: tensor `{name}`", file.path().display());
                Error::invalid(origin, message)
            };
            let found = if self.four_bit.contains(name) {
                let (rows, columns) = self.stored(name).map_err(fault)?.shape();
                vec![rows, columns]
            } else {
                let tensor = file.tensor(&place.name)?;
                if kind(tensor.dtype).is_none() {
                    return Err(fault(format!(
                        "it has type {:?}, expected F32, F16 or BF16",
                        tensor.dtype
                    )));
                }
                signed(tensor.shape)
            };
            if found != *shape {
                return Err(fault(format!("it has shape {found:?}, expected {shape:?}")));
            }
        }
        let extra = self
            .places
            .iter()
            .find(|(name, _)| !expected.contains_key(*name));
        match extra {
            None => Ok(()),
            Some((name, place)) => Err(Error::invalid(
                format!(
                    "{}: tensor `{name}`",
                    self.files[place.file].path().display()
                ),
                "it has no place in this architecture: without it the model would be another one",
            )),
        }
    }

    fn file_list(&self) -> String {
        match self.files.as_slice() {
            [file] => format!("{} is", file.path().display()),
            [first, ..] => format!(
                "{} and its {} other shards are",
                first.path().display(),
                self.files.len() - 1
            ),
            [] => "the files are".to_owned(),
        }
    }

    /// A tensor or a part of a matrix in 4 bits, as it lies in its file.
    fn view(&self, name: &str) -> Result<TensorView<'_>, String> {
        let place = self
            .places
            .get(name)
            .or_else(|| self.parts.get(name))
            .ok_or_else(|| format!("`{name}` is missing: the files are incomplete"))?;
        self.files[place.file]
            .tensor(&place.name)
            .map_err(|error| error.to_string())
    }

    /// A matrix in 4 bits.
    fn stored(&self, name: &str) -> Result<StoredMatrix<'_>, String> {
        let quantization = self
            .quantization
            .ok_or("config.json has no `quantization_config`")?;
        StoredMatrix::find(name, quantization, |part| self.view(part))
    }
}

/// The name of a tensor in the model as transformers holds it: files of multimodal models put `language_model` in front.
fn model_name(name: &str) -> String {
    match name.strip_prefix("language_model.") {
        None => name.to_owned(),
        Some(rest) => match rest.strip_prefix("model.") {
            None => rest.to_owned(),
            Some(rest) => format!("model.language_model.{rest}"),
        },
    }
}

/// Tensors that old files carry and that nothing reads: computed frequencies, and a copy of a tied head.
fn ignored(name: &str, config: &ModelConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (config.tied_embeddings && name == "lm_head.weight")
}

/// What a multimodal model has beside its language model.
fn is_of_images(name: &str, config: &ModelConfig) -> bool {
    let inner = name.strip_prefix("model.").unwrap_or(name);
    config.wiring.decoder == "model.language_model"
        && ["vision_tower.", "multi_modal_projector."]
            .iter()
            .any(|part| inner.starts_with(part))
}

/// libtorch's name of a type of weights.
fn kind(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        _ => None,
    }
}

fn signed(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|size| *size as i64).collect()
}

impl StoredWeights for Weights {
    fn beside(&self) -> Vec<(String, TensorView<'_>)> {
        let found = self.beside.iter().filter_map(|(name, place)| {
            let tensor = self.files[place.file].tensor(&place.name).ok()?;
            Some((name.clone(), tensor))
        });
        found.collect()
    }
}

impl WeightSource for Weights {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn stored_name(&self, name: &str) -> String {
        let place = self.places.get(name);
        place.map_or_else(|| name.to_owned(), |place| place.name.clone())
    }

    fn tensor(&self, name: &str) -> ops::Result<Tensor> {
        let fault = |message: String| ops::Error::Source {
            name: name.to_owned(),
            source: message.into(),
        };
        if self.four_bit.contains(name) {
            return Err(fault(
                "it is in 4 bits, expected it dense: only linear layers may be in 4 bits, and only where they are not \
                 trained"
                    .to_owned(),
            ));
        }
        let tensor = self.view(name).map_err(fault)?;
        let (kind, wrong) = match tensor.dtype {
            Dtype::F32 => (Kind::Float, finite::first_fault_f32(tensor.bytes)),
            Dtype::F16 => (Kind::Half, finite::first_fault_f16(tensor.bytes)),
            Dtype::BF16 => (Kind::BFloat16, finite::first_fault_bf16(tensor.bytes)),
            other => {
                return Err(fault(format!(
                    "it has type {other:?}, expected F32, F16 or BF16"
                )));
            }
        };
        if let Some(index) = wrong {
            let file = self.places.get(name).map(|place| &self.files[place.file]);
            let path = file.map_or_else(String::new, |file| file.path().display().to_string());
            return Err(fault(format!(
                "{path}: {}",
                finite::fault(tensor.shape, index)
            )));
        }
        Ok(Tensor::f_from_data_size(
            tensor.bytes,
            &signed(tensor.shape),
            kind,
        )?)
    }

    fn is_quantized(&self) -> bool {
        self.quantization.is_some()
    }

    fn four_bit(&self, name: &str) -> ops::Result<Option<FourBitMatrix>> {
        if !self.four_bit.contains(name) {
            return Ok(None);
        }
        self.stored(name)
            .and_then(|stored| stored.matrix())
            .map(Some)
            .map_err(|message| ops::Error::Source {
                name: name.to_owned(),
                source: message.into(),
            })
    }
}
