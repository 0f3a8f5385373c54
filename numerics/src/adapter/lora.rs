//! Low-rank adapters, named, initialised and scaled as PEFT does.
//!
//! Parameters are fp32 whatever the type of the base. Knows nothing of files: `adapter_config.json` is read and written
//! elsewhere.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::LoraSettings;
use super::scheme::{self, AdaptedModule, Scheme};
use crate::architecture::{ModelConfig, Projection};
use crate::ops::low_rank::{LowRank, Magnitude};
use crate::ops::trained::Gradient;
use crate::ops::{Error, Result};
use crate::optimizer::{NewParameter, Parameters};

/// The word of `targetModules` that means every linear layer but the output head.
const ALL_LINEAR: &str = "all-linear";

/// A low-rank adapter on some linear layers of a model.
#[derive(Debug)]
pub struct Lora {
    parameters: Parameters,
    modules: Vec<AdaptedModule>,
    layers: Vec<[Option<LowRank>; Projection::ALL.len()]>,
}

/// A module to be adapted, and where it stands in the model.
struct Target {
    layer: i64,
    projection: Projection,
    module: AdaptedModule,
}

impl Lora {
    /// A fresh adapter: A uniform in ±1/sqrt(in) (PEFT's Kaiming initialisation with a = sqrt(5)), B zero. Each A is drawn
    /// from a generator of its own, seeded by `seed` and its name: the same on every machine, whatever else is trained.
    ///
    /// Magnitudes of DoRA are zero until `Base::start_magnitudes` has set them, which needs the weights.
    pub fn new(config: &ModelConfig, settings: &LoraSettings, seed: u64) -> Result<Self> {
        let mut lora = Self::zeros(config, targets(config, settings)?)?;
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

    /// The modules that these settings adapt, in the model's order, without making anything.
    pub fn adapted(config: &ModelConfig, settings: &LoraSettings) -> Result<Vec<AdaptedModule>> {
        let targets = targets(config, settings)?;
        Ok(targets.into_iter().map(|target| target.module).collect())
    }

    /// How many numbers an adapter of these settings has, without making it.
    pub fn count(config: &ModelConfig, settings: &LoraSettings) -> Result<i64> {
        let of = |target: &Target| {
            let (output, input) = target.projection.shape(config);
            let magnitude = if target.module.dora { output } else { 0 };
            target.module.rank * (output + input) + magnitude
        };
        Ok(targets(config, settings)?.iter().map(of).sum())
    }

    /// An adapter from the tensors of an `adapter_model.safetensors`, by their names there, with PEFT's `scaling` of each module. A
    /// tensor that fits no linear layer of the model is an error: ignoring it would serve another model than was trained.
    pub fn from_tensors(
        config: &ModelConfig,
        scaling: &dyn Fn(&str) -> f64,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        let mut targets = Vec::new();
        for (layer, projection) in linears(config) {
            let name = projection.module(config, layer);
            let [a, b, magnitude] = names(&name);
            match (tensors.get(&a), tensors.contains_key(&b)) {
                (Some(a), true) => targets.push(Target {
                    layer,
                    projection,
                    module: AdaptedModule {
                        rank: a.size().first().copied().unwrap_or(0),
                        scaling: scaling(&name),
                        dora: tensors.contains_key(&magnitude),
                        name,
                    },
                }),
                (None, false) => {}
                (a_tensor, _) => {
                    let missing = if a_tensor.is_some() { b } else { a };
                    return Err(Error::Adapter(format!(
                        "tensor `{missing}` is missing, its other half is there"
                    )));
                }
            }
        }
        if targets.is_empty() {
            return Err(Error::Adapter(format!(
                "none of its {} tensors belongs to a linear layer of the base model, expected names as `{}`",
                tensors.len(),
                names(&config.projections()[0].module(config, 0))[0]
            )));
        }
        let lora = Self::zeros(config, targets)?;
        if let Some(name) = tensors
            .keys()
            .find(|name| lora.parameters.find(name).is_none())
        {
            return Err(Error::Adapter(format!(
                "tensor `{name}` belongs to no linear layer of the base model; expected only lora_A, lora_B and \
                 lora_magnitude_vector of the layers' linear modules"
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

    fn zeros(config: &ModelConfig, targets: Vec<Target>) -> Result<Self> {
        let mut list = Vec::new();
        for Target {
            projection, module, ..
        } in &targets
        {
            if module.rank < 1 {
                return Err(Error::Adapter(format!(
                    "the rank of `{}` is {}, expected at least 1",
                    module.name, module.rank
                )));
            }
            let (output, input) = projection.shape(config);
            let [a, b, magnitude] = names(&module.name);
            list.push(NewParameter::new(a, vec![module.rank, input]));
            list.push(NewParameter::new(b, vec![output, module.rank]));
            if module.dora {
                // transformers' Trainer spares biases and norms only.
                list.push(NewParameter::new(magnitude, vec![output]).decayed());
            }
        }
        let parameters = Parameters::zeros(list)?;
        let mut layers: Vec<[Option<LowRank>; Projection::ALL.len()]> = Vec::new();
        layers.resize_with(config.layers as usize, Default::default);
        let mut of_modules = parameters.list().iter();
        let mut next = || -> Result<(Tensor, Gradient)> {
            let parameter = of_modules.next().ok_or_else(|| {
                Error::Adapter("a module has fewer tensors than it was given".to_owned())
            })?;
            Ok((parameters.value(parameter)?, parameters.added_to(parameter)))
        };
        for target in &targets {
            let ((a, gradient_a), (b, gradient_b)) = (next()?, next()?);
            let magnitude = match target.module.dora {
                true => {
                    let (value, gradient) = next()?;
                    Some(Magnitude {
                        value,
                        gradient,
                        known: RefCell::default(),
                    })
                }
                false => None,
            };
            layers[target.layer as usize][target.projection as usize] = Some(LowRank {
                module: target.module.name.clone(),
                a,
                b,
                gradient_a,
                gradient_b,
                scaling: target.module.scaling,
                revision: parameters.revision().clone(),
                magnitude,
            });
        }
        Ok(Self {
            modules: targets.into_iter().map(|target| target.module).collect(),
            parameters,
            layers,
        })
    }

    /// The modules that it is on, in the model's order.
    pub fn modules(&self) -> &[AdaptedModule] {
        &self.modules
    }

    /// The largest rank of a module.
    pub fn rank(&self) -> i64 {
        let ranks = self.modules.iter().map(|module| module.rank);
        ranks.max().unwrap_or(0)
    }

    /// Refuses an adapter that is not one of these settings: training on would change what it is.
    pub fn refuse_other(&self, config: &ModelConfig, settings: &LoraSettings) -> Result<()> {
        scheme::refuse_other(&self.modules, &Self::adapted(config, settings)?)
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

    /// The weight (out, in) of the module of this full name with the adapter merged into it, in fp32; `None` where the module is
    /// not adapted.
    pub fn merged(&self, module: &str, weight: &Tensor) -> Result<Option<Tensor>> {
        let adapters = self.layers.iter().flatten().flatten();
        let mut named = adapters.zip(&self.modules);
        let found = named.find(|(_, adapted)| adapted.name == module);
        found.map(|(adapter, _)| adapter.merged(weight)).transpose()
    }

    /// The adapters of one layer, by `Projection`.
    pub fn layer(&self, index: usize) -> &[Option<LowRank>; Projection::ALL.len()] {
        &self.layers[index]
    }
}

/// The names of A, B and the magnitudes in `adapter_model.safetensors`.
fn names(module: &str) -> [String; 3] {
    ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"]
        .map(|part| format!("base_model.model.{module}.{part}"))
}

/// All linear layers, in the model's order.
fn linears(config: &ModelConfig) -> impl Iterator<Item = (i64, Projection)> {
    (0..config.layers).flat_map(move |layer| {
        let at = move |&projection: &Projection| (layer, projection);
        config.projections().iter().map(at)
    })
}

/// What the settings adapt, and how.
fn targets(config: &ModelConfig, settings: &LoraSettings) -> Result<Vec<Target>> {
    let scheme = Scheme::of(settings)?;
    let targets: Vec<Target> = targeted(config, &settings.target_modules)?
        .into_iter()
        .map(|(layer, projection)| {
            let name = projection.module(config, layer);
            let module = AdaptedModule {
                rank: scheme.rank_of(&name),
                scaling: scheme.scaling_of(&name),
                dora: settings.use_dora,
                name,
            };
            Target {
                layer,
                projection,
                module,
            }
        })
        .collect();
    let modules: Vec<_> = targets.iter().map(|target| target.module.clone()).collect();
    scheme.refuse_idle_patterns(&modules)?;
    for target in &targets {
        let (output, input) = target.projection.shape(config);
        scheme.refuse_rank_over(&target.module, output, input)?;
    }
    Ok(targets)
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
    let all: Vec<_> = linears(config).collect();
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
