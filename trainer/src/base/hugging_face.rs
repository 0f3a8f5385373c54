//! The weights of a Hugging Face directory: one safetensors file, or several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use finetune_artifacts::safetensors_file::{Dtype, SafetensorsFile};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::Error;
use crate::model::{ModelConfig, WeightSource};
use crate::ops;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Files that make a model beside its weights, where they are there.
const COMPANIONS: [&str; 6] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Whether a path below the folder is part of the model: not, for example, the same weights in another format.
pub(super) fn belongs(path: &str) -> bool {
    COMPANIONS.contains(&path) || is_weights(path)
}

/// Whether a path below the folder holds weights or says where they are.
pub(super) fn is_weights(path: &str) -> bool {
    path == SINGLE || path == INDEX || is_shard(path)
}

fn is_shard(path: &str) -> bool {
    path.starts_with("model-") && path.ends_with(".safetensors") && !path.contains('/')
}

/// The files of the model in `folder`.
pub(super) fn file_names(folder: &Path) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = COMPANIONS
        .into_iter()
        .filter(|name| folder.join(name).is_file())
        .map(str::to_owned)
        .collect();
    let shards = shard_names(folder)?;
    if folder.join(INDEX).is_file() {
        names.push(INDEX.to_owned());
    }
    names.extend(shards);
    Ok(names)
}

/// The files beside the weights, with their content.
pub(super) fn companions(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut files = Vec::new();
    for name in COMPANIONS {
        let path = folder.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => files.push((name.to_owned(), bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Error::invalid(
                    path.display().to_string(),
                    error.to_string(),
                ));
            }
        }
    }
    Ok(files)
}

/// The index of a model in several files.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn index(folder: &Path) -> Result<Option<Index>, Error> {
    let path = folder.join(INDEX);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Error::invalid(
                path.display().to_string(),
                error.to_string(),
            ));
        }
    };
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| Error::invalid(INDEX, error.to_string()))?;
    if let Some(name) = index.weight_map.values().find(|name| !is_shard(name)) {
        return Err(Error::invalid(
            INDEX,
            format!(
                "it names the file `{name}`, expected `model-….safetensors` in the same folder"
            ),
        ));
    }
    Ok(Some(index))
}

fn shard_names(folder: &Path) -> Result<Vec<String>, Error> {
    if folder.join(SINGLE).is_file() {
        return Ok(vec![SINGLE.to_owned()]);
    }
    match index(folder)? {
        Some(index) => {
            let names: BTreeSet<String> = index.weight_map.into_values().collect();
            Ok(names.into_iter().collect())
        }
        None => Err(Error::invalid(
            folder.display().to_string(),
            format!("it has neither {SINGLE} nor {INDEX}: weights are read from safetensors only"),
        )),
    }
}

/// The weights, lent one by one out of mapped files.
#[derive(Debug)]
pub(super) struct Weights {
    files: Vec<SafetensorsFile>,
    places: BTreeMap<String, Place>,
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
    pub(super) fn open(folder: &Path, config: &ModelConfig) -> Result<Self, Error> {
        let files = shard_names(folder)?
            .iter()
            .map(|name| SafetensorsFile::open(&folder.join(name)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
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
                if places.insert(known, place).is_some() {
                    return Err(Error::invalid(
                        folder.display().to_string(),
                        format!("tensor `{name}` is in two files"),
                    ));
                }
            }
        }
        let weights = Self { files, places };
        weights.check(config)?;
        Ok(weights)
    }

    fn check(&self, config: &ModelConfig) -> Result<(), Error> {
        let expected: BTreeMap<String, Vec<i64>> = config.tensors().into_iter().collect();
        for (name, shape) in &expected {
            let Some(place) = self.places.get(name) else {
                return Err(Error::invalid(
                    format!("tensor `{name}`"),
                    format!("it is missing, expected shape {shape:?}: the files are incomplete"),
                ));
            };
            let tensor = self.files[place.file].tensor(&place.name)?;
            if !tensor
                .shape
                .iter()
                .map(|size| *size as i64)
                .eq(shape.iter().copied())
            {
                return Err(Error::invalid(
                    format!("tensor `{name}`"),
                    format!("it has shape {:?}, expected {shape:?}", tensor.shape),
                ));
            }
            if kind(tensor.dtype).is_none() {
                return Err(Error::invalid(
                    format!("tensor `{name}`"),
                    format!("it has type {:?}, expected F32, F16 or BF16", tensor.dtype),
                ));
            }
        }
        match self
            .places
            .keys()
            .find(|name| !expected.contains_key(*name))
        {
            None => Ok(()),
            Some(name) => Err(Error::invalid(
                format!("tensor `{name}`"),
                "it has no place in this architecture: without it the model would be another one",
            )),
        }
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

/// Tensors that old files carry and that nothing reads: computed frequencies, and a copy of a tied head; and what a multimodal
/// model has beside its language model.
fn ignored(name: &str, config: &ModelConfig) -> bool {
    let of_images = ["vision_tower.", "multi_modal_projector."];
    let inner = name.strip_prefix("model.").unwrap_or(name);
    name.ends_with(".rotary_emb.inv_freq")
        || (config.tied_embeddings && name == "lm_head.weight")
        || (config.wiring.decoder == "model.language_model"
            && of_images.iter().any(|part| inner.starts_with(part)))
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

impl WeightSource for Weights {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> ops::Result<Tensor> {
        let missing = || ops::Error::Source {
            name: name.to_owned(),
            source: "there is no tensor of that name".into(),
        };
        let place = self.places.get(name).ok_or_else(missing)?;
        let tensor = self.files[place.file]
            .tensor(&place.name)
            .map_err(|error| ops::Error::Source {
                name: name.to_owned(),
                source: Box::new(error),
            })?;
        let kind = kind(tensor.dtype).ok_or_else(missing)?;
        let shape: Vec<i64> = tensor.shape.iter().map(|size| *size as i64).collect();
        Ok(Tensor::f_from_data_size(tensor.bytes, &shape, kind)?)
    }
}
