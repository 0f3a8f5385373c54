//! The model: loading, the forward pass through all layers, the loss and its gradient.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use super::config::{EMBEDDING, FINAL_NORM, HEAD, norm_names};
use super::layer::{Layer, NO_ADAPTERS, Pass, Saved};
use super::{Batch, KeyValueCache, ModelConfig, Projection, WeightSource};
use crate::method::nf4::Nf4Matrix;
use crate::method::{Lora, full};
use crate::ops::cross_entropy::{self, LossSum};
use crate::ops::linear::{Dense, Linear, Scratch, Weight};
use crate::ops::rope::Rotation;
use crate::ops::{Error, Result, embedding, logits, rms_norm};
use crate::optimizer::Parameters;

/// How the weights are held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Storage {
    /// Fixed, in the type of the activations.
    Frozen,
    /// Fixed, the linear layers but the output head in 4 bits, embedding and head in the type of the activations.
    Nf4 {
        /// Whether the scales are quantised too.
        double_quantization: bool,
    },
    /// Trained, in fp32.
    Trained,
}

/// How to load a model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LoadOptions {
    /// The type of the activations: `Kind::Float` or `Kind::BFloat16`.
    pub compute: Kind,
    /// How the weights are held.
    pub storage: Storage,
}

/// A model on the CPU. `Send`, not `Sync` (its scratch buffer is shared by its passes): servers put it behind a mutex.
#[derive(Debug)]
pub struct Base {
    config: ModelConfig,
    compute: Kind,
    /// (V, H).
    embedding: Dense,
    layers: Vec<Layer>,
    /// (H), fp32.
    final_norm: Dense,
    /// (V, H); absent where tied to the embedding.
    head: Option<Dense>,
    /// What is trained, under `Storage::Trained`.
    parameters: Option<Parameters>,
    scratch: RefCell<Scratch>,
}

impl Base {
    /// Loads weight by weight: at no time is more than one held in another form than the final one.
    pub fn load(
        config: &ModelConfig,
        source: &dyn WeightSource,
        options: &LoadOptions,
    ) -> Result<Self> {
        config.check()?;
        if !matches!(options.compute, Kind::Float | Kind::BFloat16) {
            return Err(Error::Configuration(format!(
                "activations in {:?} are not supported, expected Float or BFloat16",
                options.compute
            )));
        }
        let parameters = match options.storage {
            Storage::Trained => Some(full::parameters(config)?),
            Storage::Frozen | Storage::Nf4 { .. } => None,
        };
        let loader = Loader {
            source,
            names: source.names(),
            options,
            parameters: parameters.as_ref(),
        };
        let (vocabulary, hidden) = (config.vocabulary_size, config.hidden_size);
        let layers = (0..config.layers)
            .map(|layer| loader.layer(config, layer))
            .collect::<Result<_>>()?;
        let head = match config.tied_embeddings {
            true => None,
            false => Some(loader.dense(HEAD, &[vocabulary, hidden], options.compute)?),
        };
        Ok(Self {
            config: config.clone(),
            compute: options.compute,
            embedding: loader.dense(EMBEDDING, &[vocabulary, hidden], options.compute)?,
            layers,
            final_norm: loader.dense(FINAL_NORM, &[hidden], Kind::Float)?,
            head,
            parameters,
            scratch: RefCell::new(Scratch::new(options.compute)),
        })
    }

    /// The model's shape.
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The type of the activations.
    pub const fn compute(&self) -> Kind {
        self.compute
    }

    /// All weights, named as in `model.safetensors`, under `Storage::Trained`; else nothing.
    pub const fn parameters(&self) -> Option<&Parameters> {
        self.parameters.as_ref()
    }

    /// The same, for the optimiser.
    pub const fn parameters_mut(&mut self) -> Option<&mut Parameters> {
        self.parameters.as_mut()
    }

    /// The sum of token losses of a batch, without gradients.
    pub fn loss(&self, adapter: Option<&Lora>, batch: &Batch) -> Result<LossSum> {
        let hidden = self.hidden(adapter, &batch.tokens, &mut |_| {})?;
        let scratch = &mut self.scratch.borrow_mut();
        cross_entropy::loss(
            &hidden,
            &self.head().in_kind(scratch)?,
            &batch.targets.f_reshape([-1])?,
        )
    }

    /// The sum of token losses of a batch. The gradient of `scale` x that sum is added to the gradients of the adapter and of
    /// trained weights. For the mean over a step, `scale` is 1 / all tokens of the step that carry loss.
    pub fn loss_and_gradient(
        &mut self,
        adapter: Option<&mut Lora>,
        batch: &Batch,
        scale: f64,
    ) -> Result<LossSum> {
        let adapter = adapter.map(|adapter| &*adapter);
        let mut scratch = self.scratch.borrow_mut();
        let mut pass = self.pass(&batch.tokens, 0, &mut scratch)?;

        let mut x = embedding::forward(&self.embedding.value, &batch.tokens, self.compute)?; // (M, H)
        let mut tape: Vec<Saved> = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let (y, saved) = layer.forward(&x, adapters(adapter, index), None, &mut pass)?;
            tape.push(saved);
            x = y;
        }
        let (hidden, norm) =
            rms_norm::forward(&x, &self.final_norm.value, self.config.rms_norm_epsilon)?;
        let head = self.head();
        let (sum, d_hidden) = cross_entropy::loss_and_gradient(
            &hidden,
            &head.in_kind(pass.scratch)?,
            head.gradient.as_ref(),
            &batch.targets.f_reshape([-1])?,
            scale,
        )?;
        let final_norm = &self.final_norm;
        let mut dx = rms_norm::backward(
            &norm,
            &final_norm.value,
            &d_hidden,
            final_norm.gradient.as_ref(),
        )?;
        for (index, layer) in self.layers.iter().enumerate().rev() {
            if let Some(saved) = tape.pop() {
                dx = layer.backward(saved, dx, adapters(adapter, index), &mut pass)?;
            }
        }
        if let Some(gradient) = &self.embedding.gradient {
            embedding::backward(&dx, &batch.tokens, gradient)?;
        }
        Ok(sum)
    }

    /// The last hidden rows (M, H), after the final norm. `observe` sees the residual stream (M, H): the embedding, then each layer's output.
    pub(super) fn hidden(
        &self,
        adapter: Option<&Lora>,
        tokens: &Tensor,
        observe: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor> {
        let mut scratch = self.scratch.borrow_mut();
        let mut pass = self.pass(tokens, 0, &mut scratch)?;
        let mut x = embedding::forward(&self.embedding.value, tokens, self.compute)?;
        observe(&x);
        for (index, layer) in self.layers.iter().enumerate() {
            (x, _) = layer.forward(&x, adapters(adapter, index), None, &mut pass)?;
            observe(&x);
        }
        Ok(rms_norm::forward(&x, &self.final_norm.value, self.config.rms_norm_epsilon)?.0)
    }

    /// The same for the next tokens (1, T) of a sequence whose earlier ones lie in the cache.
    pub(super) fn hidden_cached(
        &self,
        adapter: Option<&Lora>,
        tokens: &Tensor,
        cache: &mut KeyValueCache,
    ) -> Result<Tensor> {
        let length = tokens.size()[1];
        cache.reserve(length)?;
        let mut scratch = self.scratch.borrow_mut();
        let mut pass = self.pass(tokens, cache.length(), &mut scratch)?;
        let mut x = embedding::forward(&self.embedding.value, tokens, self.compute)?;
        for (index, layer) in self.layers.iter().enumerate() {
            (x, _) = layer.forward(
                &x,
                adapters(adapter, index),
                Some(cache.layer(index)),
                &mut pass,
            )?;
        }
        cache.advance(length);
        Ok(rms_norm::forward(&x, &self.final_norm.value, self.config.rms_norm_epsilon)?.0)
    }

    /// log p of every token after each of these hidden rows (M, V), fp32.
    pub(super) fn log_probabilities_of(&self, hidden: &Tensor) -> Result<Tensor> {
        let scratch = &mut self.scratch.borrow_mut();
        cross_entropy::log_probabilities(hidden, &self.head().in_kind(scratch)?)
    }

    /// The logits after each of these hidden rows (M, V), fp32.
    pub(super) fn logits_of(&self, hidden: &Tensor) -> Result<Tensor> {
        let scratch = &mut self.scratch.borrow_mut();
        logits::forward(hidden, &self.head().in_kind(scratch)?)
    }

    fn head(&self) -> &Dense {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    fn pass<'a>(
        &'a self,
        tokens: &Tensor,
        start: i64,
        scratch: &'a mut Scratch,
    ) -> Result<Pass<'a>> {
        let config = &self.config;
        let (batch, length) = tokens.size2()?;
        let (least, most) = (
            i64::try_from(tokens.f_min()?)?,
            i64::try_from(tokens.f_max()?)?,
        );
        if least < 0 || most >= config.vocabulary_size {
            return Err(Error::Input(format!(
                "token ids from {least} to {most}, expected 0 to {}: the tokenizer belongs to another model",
                config.vocabulary_size - 1
            )));
        }
        let rotation = Rotation::new(
            config.head_dim,
            config.rope_theta,
            start,
            length,
            self.compute,
        )?;
        Ok(Pass {
            config,
            rotation,
            scratch,
            shape: (batch, length),
        })
    }
}

fn adapters(adapter: Option<&Lora>, layer: usize) -> &super::layer::Adapters {
    adapter.map_or(NO_ADAPTERS, |adapter| adapter.layer(layer))
}

/// Takes weights from their source into the form in which they are held.
struct Loader<'a> {
    source: &'a dyn WeightSource,
    names: Vec<String>,
    options: &'a LoadOptions,
    parameters: Option<&'a Parameters>,
}

impl Loader<'_> {
    fn layer(&self, config: &ModelConfig, layer: i64) -> Result<Layer> {
        let linear = |projection: Projection| -> Result<Linear> {
            let (output, input) = projection.shape(config);
            let module = projection.module(layer);
            let bias = match projection.has_bias(config) {
                true => Some(self.dense(&format!("{module}.bias"), &[output], Kind::Float)?),
                false => None,
            };
            Ok(Linear {
                weight: self.matrix(&format!("{module}.weight"), &[output, input])?,
                bias,
            })
        };
        let [first, second] = norm_names(layer);
        let norm = |name: &str| self.dense(name, &[config.hidden_size], Kind::Float);
        let [query, key, value, output, gate, up, down] = Projection::ALL.map(linear);
        Ok(Layer {
            norms: [norm(&first)?, norm(&second)?],
            linears: [query?, key?, value?, output?, gate?, up?, down?],
        })
    }

    fn matrix(&self, name: &str, shape: &[i64]) -> Result<Weight> {
        Ok(match self.options.storage {
            Storage::Nf4 {
                double_quantization,
            } => Weight::Nf4(Nf4Matrix::quantise(
                &self.tensor(name, shape)?,
                double_quantization,
            )?),
            Storage::Frozen | Storage::Trained => {
                Weight::Dense(self.dense(name, shape, self.options.compute)?)
            }
        })
    }

    /// Fixed in `kind`, or a view of the parameters.
    fn dense(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Dense> {
        let tensor = self.tensor(name, shape)?;
        let Some(parameters) = self.parameters else {
            return Ok(Dense {
                value: tensor.f_to_kind(kind)?.f_contiguous()?,
                gradient: None,
            });
        };
        let parameter = parameters.find(name).ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
        })?;
        let mut value = parameters.value(parameter)?;
        value.f_copy_(&tensor)?;
        Ok(Dense {
            value,
            gradient: Some(parameters.gradient(parameter)?),
        })
    }

    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        if !self.names.iter().any(|known| known == name) {
            return Err(Error::MissingTensor {
                name: name.to_owned(),
                shape: shape.to_vec(),
            });
        }
        let tensor = self.source.tensor(name)?;
        if tensor.size() != shape {
            return Err(Error::Shape {
                name: name.to_owned(),
                found: tensor.size(),
                expected: shape.to_vec(),
            });
        }
        Ok(tensor.f_to_device(Device::Cpu)?)
    }
}
