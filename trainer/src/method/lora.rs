//! Low-rank adapters, named, initialised and scaled as PEFT does.
//!
//! Parameters are fp32 whatever the type of the base. Knows nothing of files: `adapter_config.json` is read and written
//! elsewhere.

use std::collections::BTreeMap;

use finetune_crds::fine_tune_job::Lora as Settings;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::model::{ModelConfig, Projection};
use crate::ops::linear::LowRank;
use crate::ops::{Error, Result};
use crate::optimizer::Parameters;

/// The word of `targetModules` that means every linear layer but the output head.
const ALL_LINEAR: &str = "all-linear";

/// A low-rank adapter on some linear layers of a model.
#[derive(Debug)]
pub struct Lora {
    rank: i64,
    scaling: f64,
    parameters: Parameters,
    layers: Vec<[Option<LowRank>; Projection::ALL.len()]>,
}

impl Lora {
    /// A fresh adapter: A uniform in ±1/sqrt(in) (PEFT's Kaiming initialisation with a = sqrt(5)), B zero. Each A is drawn
    /// from a generator of its own, seeded by `seed` and its name: the same on every machine, whatever else is trained.
    pub fn new(config: &ModelConfig, settings: &Settings, seed: u64) -> Result<Self> {
        let targets = targeted(config, &settings.target_modules)?;
        let scaling = settings.alpha as f64 / settings.rank as f64;
        let mut lora = Self::zeros(config, &targets, settings.rank, scaling)?;
        for parameter in lora.parameters.list().to_vec() {
            if parameter.name.ends_with(".lora_A.weight") {
                let bound = 1.0 / (parameter.shape[1] as f32).sqrt();
                let mut random = generator(seed, &parameter.name);
                let range = parameter.offset..parameter.offset + parameter.length();
                for value in &mut lora.parameters.values_mut()?[range] {
                    *value = random.random_range(-bound..bound);
                }
            }
        }
        Ok(lora)
    }

    /// How many numbers an adapter of these settings has, without making it.
    pub fn count(config: &ModelConfig, settings: &Settings) -> Result<i64> {
        let targets = targeted(config, &settings.target_modules)?;
        let of = |projection: Projection| {
            let (output, input) = projection.shape(config);
            settings.rank * (output + input)
        };
        Ok(targets.iter().map(|&(_, projection)| of(projection)).sum())
    }

    /// An adapter from the tensors of an `adapter_model.safetensors`, by their names there, with PEFT's `scaling` (alpha / r,
    /// or alpha / sqrt(r) for rsLoRA). A tensor that fits no linear layer of the model is an error: ignoring it would serve another model than
    /// was trained.
    pub fn from_tensors(
        config: &ModelConfig,
        scaling: f64,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        let mut targets = Vec::new();
        for layer in 0..config.layers {
            for &projection in config.projections() {
                let module = projection.module(config, layer);
                let [a, b] = names(&module);
                match (tensors.contains_key(&a), tensors.contains_key(&b)) {
                    (true, true) => targets.push((layer, projection)),
                    (false, false) => {}
                    (has_a, _) => {
                        let missing = if has_a { b } else { a };
                        return Err(Error::Adapter(format!(
                            "tensor `{missing}` is missing, its other half is there"
                        )));
                    }
                }
            }
        }
        let Some(&(layer, projection)) = targets.first() else {
            return Err(Error::Adapter(format!(
                "none of its {} tensors belongs to a linear layer of the base model, expected names as `{}`",
                tensors.len(),
                names(&config.projections()[0].module(config, 0))[0]
            )));
        };
        let rank = tensors[&names(&projection.module(config, layer))[0]]
            .size()
            .first()
            .copied()
            .unwrap_or(0);
        let lora = Self::zeros(config, &targets, rank, scaling)?;
        if let Some(name) = tensors
            .keys()
            .find(|name| lora.parameters.find(name).is_none())
        {
            return Err(Error::Adapter(format!(
                "tensor `{name}` belongs to no linear layer of the base model; expected only lora_A and lora_B of \
                 the layers' linear modules"
            )));
        }
        for parameter in lora.parameters.list() {
            let tensor = &tensors[&parameter.name];
            if tensor.size() != parameter.shape {
                return Err(Error::Shape {
                    name: parameter.name.clone(),
                    found: tensor.size(),
                    expected: parameter.shape.clone(),
                });
            }
            lora.parameters
                .value(parameter)?
                .f_copy_(&tensor.f_to_kind(Kind::Float)?)?;
        }
        Ok(lora)
    }

    fn zeros(
        config: &ModelConfig,
        targets: &[(i64, Projection)],
        rank: i64,
        scaling: f64,
    ) -> Result<Self> {
        if rank < 1 {
            return Err(Error::Adapter(format!(
                "the rank is {rank}, expected at least 1"
            )));
        }
        let mut list = Vec::new();
        for &(layer, projection) in targets {
            let (output, input) = projection.shape(config);
            let [a, b] = names(&projection.module(config, layer));
            list.push((a, vec![rank, input]));
            list.push((b, vec![output, rank]));
        }
        let parameters = Parameters::zeros(list)?;
        let mut layers: Vec<[Option<LowRank>; Projection::ALL.len()]> = Vec::new();
        layers.resize_with(config.layers as usize, Default::default);
        for (&(layer, projection), pair) in targets.iter().zip(parameters.list().chunks_exact(2)) {
            layers[layer as usize][projection as usize] = Some(LowRank {
                a: parameters.value(&pair[0])?,
                b: parameters.value(&pair[1])?,
                gradient_a: parameters.gradient(&pair[0])?,
                gradient_b: parameters.gradient(&pair[1])?,
                scaling,
            });
        }
        Ok(Self {
            rank,
            scaling,
            parameters,
            layers,
        })
    }

    /// The rank r.
    pub const fn rank(&self) -> i64 {
        self.rank
    }

    /// PEFT's `scaling`.
    pub const fn scaling(&self) -> f64 {
        self.scaling
    }

    /// What is trained, named as in `adapter_model.safetensors`.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What is trained, for the optimiser.
    pub const fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The last parts of the names of the adapted modules (`q_proj`, …), each once, sorted: `target_modules` of `adapter_config.json`.
    pub fn target_modules(&self) -> Vec<&'static str> {
        let adapted = |projection: &Projection| {
            self.layers
                .iter()
                .any(|layer| layer[*projection as usize].is_some())
        };
        let mut names: Vec<_> = Projection::ALL
            .iter()
            .filter(|p| adapted(p))
            .map(|p| p.name())
            .collect();
        names.sort_unstable();
        names
    }

    /// The adapters of one layer, by `Projection`.
    pub(crate) fn layer(&self, index: usize) -> &[Option<LowRank>; Projection::ALL.len()] {
        &self.layers[index]
    }
}

/// The names of A and B in `adapter_model.safetensors`.
fn names(module: &str) -> [String; 2] {
    ["A", "B"].map(|side| format!("base_model.model.{module}.lora_{side}.weight"))
}

/// The linear layers that the words of `targetModules` name, in the model's order. As in PEFT, a word names a module if it is
/// the end of its full name, at a dot.
fn targeted(config: &ModelConfig, words: &[String]) -> Result<Vec<(i64, Projection)>> {
    let names = |word: &str, module: &str| {
        word == ALL_LINEAR
            || module == word
            || module
                .strip_suffix(word)
                .is_some_and(|head| head.ends_with('.'))
    };
    let all: Vec<_> = (0..config.layers)
        .flat_map(|layer| {
            config
                .projections()
                .iter()
                .map(move |&projection| (layer, projection))
        })
        .collect();
    let hit = |word: &String| {
        all.iter()
            .any(|(layer, projection)| names(word, &projection.module(config, *layer)))
    };
    if let Some(word) = words.iter().find(|word| !hit(word)) {
        return Err(Error::Adapter(format!(
            "`targetModules` has `{word}`, which names no linear layer of this model; expected {ALL_LINEAR} or some of {}",
            config
                .projections()
                .iter()
                .map(|projection| projection.name())
                .collect::<Vec<_>>()
                .join(", ")
        )));
    }
    let chosen = |(layer, projection): &(i64, Projection)| {
        let module = projection.module(config, *layer);
        words.iter().any(|word| names(word, &module))
    };
    Ok(all.iter().copied().filter(chosen).collect())
}

fn generator(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(name.as_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}
