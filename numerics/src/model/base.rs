//! The model: loading, the forward pass through all layers, the loss and its gradient.

use std::cell::RefCell;

use tch::{Kind, Tensor};

use super::batch::Positions;
use super::layer::{Layer, SavedLayer};
use super::loader::{LoadOptions, Loader, Storage};
use super::pass::{Pass, Rider};
use super::randomness::Randomness;
use super::{Batch, KeyValueCache, WeightSource, full};
use crate::adapter::Lora;
use crate::architecture::{HEAD, ModelConfig};
use crate::ops::cross_entropy::{self, Head, LossSum, Targets};
use crate::ops::linear::{Dense, Scratch};
use crate::ops::profile::{Operation, timed};
use crate::ops::{Error, Result, embedding, logits, rms_norm};
use crate::optimizer::Parameters;

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
    /// What is trained, where it is kept here.
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
        let parameters = match options.storage {
            Storage::Trained => Some(full::parameters(config)?),
            Storage::Frozen | Storage::FourBit { .. } => None,
        };
        let base = Self::load_with(config, source, *options, parameters.as_ref())?;
        Ok(Self { parameters, ..base })
    }

    /// The same under `Storage::Trained`, with what is trained beside the model, whose weights are views of it.
    pub fn load_trained(
        config: &ModelConfig,
        source: &dyn WeightSource,
        compute: Kind,
    ) -> Result<(Self, Parameters)> {
        config.check()?;
        let options = LoadOptions {
            compute,
            storage: Storage::Trained,
        };
        let parameters = full::parameters(config)?;
        let base = Self::load_with(config, source, options, Some(&parameters))?;
        Ok((base, parameters))
    }

    /// What is trained becomes a view of `parameters`.
    fn load_with(
        config: &ModelConfig,
        source: &dyn WeightSource,
        options: LoadOptions,
        parameters: Option<&Parameters>,
    ) -> Result<Self> {
        if !matches!(options.compute, Kind::Float | Kind::BFloat16) {
            return Err(Error::Configuration(format!(
                "activations in {:?} are not supported, expected Float or BFloat16",
                options.compute
            )));
        }
        let loader = Loader::new(source, &options, parameters);
        let layers = (0..config.layers)
            .map(|layer| loader.layer(config, layer))
            .collect::<Result<_>>()?;
        let rest = Self::without_layers(config, &loader)?;
        Ok(Self { layers, ..rest })
    }

    /// What stands before and behind the layers, without these and without anything to train.
    pub(super) fn without_layers(config: &ModelConfig, loader: &Loader<'_>) -> Result<Self> {
        let compute = loader.compute();
        let (vocabulary, hidden) = (config.vocabulary_size, config.hidden_size);
        let head = match config.tied_embeddings {
            true => None,
            false => Some(loader.dense(HEAD, &[vocabulary, hidden], compute)?),
        };
        let name = config.embedding_name();
        Ok(Self {
            config: config.clone(),
            compute,
            embedding: loader.dense(&name, &[vocabulary, hidden], compute)?,
            layers: Vec::new(),
            final_norm: loader.dense(&config.final_norm_name(), &[hidden], Kind::Float)?,
            head,
            parameters: None,
            scratch: RefCell::new(Scratch::new(compute)),
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

    /// All weights, named as in `model.safetensors`, where [`Self::load`] has loaded them under `Storage::Trained`; else nothing.
    pub const fn parameters(&self) -> Option<&Parameters> {
        self.parameters.as_ref()
    }

    /// The same, for the optimiser.
    pub const fn parameters_mut(&mut self) -> Option<&mut Parameters> {
        self.parameters.as_mut()
    }

    /// Sets the magnitudes of a fresh DoRA adapter to the norms of the rows of its weights, as this base holds them, so that
    /// it changes nothing yet. Does nothing to an adapter without magnitudes.
    pub fn start_magnitudes(&self, adapter: &mut Lora) -> Result<()> {
        let mut scratch = self.scratch.borrow_mut();
        for (index, layer) in self.layers.iter().enumerate() {
            let linears = layer.linears.by_projection.iter();
            for (linear, adapter) in linears.zip(adapter.layer(index)) {
                let (Some(linear), Some(adapter)) = (linear, adapter) else {
                    continue;
                };
                let Some(magnitude) = &adapter.magnitude else {
                    continue;
                };
                let norms = linear.norms(adapter, &mut scratch)?;
                magnitude.value.shallow_clone().f_copy_(&norms)?;
            }
        }
        Ok(())
    }

    /// The sum of token losses of a batch, without gradients.
    pub fn loss(
        &self,
        adapter: Option<&Lora>,
        batch: &Batch,
        random: Option<Randomness>,
    ) -> Result<LossSum> {
        self.check_token(batch.greatest_token)?;
        let (tokens, positions) = (&batch.tokens, batch.positions());
        let hidden = self.hidden(adapter, tokens, positions, random, &mut |_| {})?;
        let scratch = &mut self.scratch.borrow_mut();
        let head = Head {
            matrix: &self.head().in_kind(scratch)?,
            gradient: None,
            settings: self.config.wiring.logits,
        };
        cross_entropy::loss(&hidden, head, &batch.targets)
    }

    /// The sum of token losses of a batch. The gradient of `scale` x that sum is added to the gradients of the adapter and of
    /// trained weights. For the mean over a step, `scale` is 1 / all tokens of the step that carry loss.
    pub fn loss_and_gradient(
        &self,
        adapter: Option<&Lora>,
        batch: &Batch,
        scale: f64,
        random: Option<Randomness>,
    ) -> Result<LossSum> {
        self.check_token(batch.greatest_token)?;
        let riders = alone(adapter, &batch.tokens);
        let mut scratch = self.scratch.borrow_mut();
        let positions = batch.positions();
        let mut pass = self.pass(&batch.tokens, positions, &riders, random, &mut scratch)?;

        let mut x = self.embed(&batch.tokens, random)?; // (M, H)
        let mut tape: Vec<SavedLayer> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (y, saved) = layer.forward(&x, None, &mut pass)?;
            tape.push(saved);
            x = y;
        }
        let (hidden, norm) = rms_norm::forward(&x, &self.final_norm.value, self.config.norm())?;
        let head = self.head();
        let head = Head {
            matrix: &head.in_kind(pass.scratch)?,
            gradient: head.gradient.as_ref(),
            settings: self.config.wiring.logits,
        };
        let (sum, d_hidden) = timed(Operation::Loss, || {
            cross_entropy::loss_and_gradient(&hidden, head, &batch.targets, scale)
        })?;
        let mut dx = rms_norm::backward(&norm, &d_hidden, self.final_norm.gradient.as_ref())?;
        for layer in self.layers.iter().rev() {
            if let Some(saved) = tape.pop() {
                dx = layer.backward(saved, &dx, &mut pass)?;
            }
        }
        if let Some(gradient) = &self.embedding.gradient {
            let multiplier = self.config.wiring.embedding_multiplier;
            embedding::backward(&dx, &batch.tokens, gradient, multiplier)?;
        }
        Ok(sum)
    }

    /// The last hidden rows (M, H), after the final norm. `observe` sees the residual stream (M, H): the embedding, then each layer's output.
    pub(super) fn hidden(
        &self,
        adapter: Option<&Lora>,
        tokens: &Tensor,
        positions: Positions<'_>,
        random: Option<Randomness>,
        observe: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor> {
        let riders = alone(adapter, tokens);
        let mut scratch = self.scratch.borrow_mut();
        let mut pass = self.pass(tokens, positions, &riders, random, &mut scratch)?;
        let mut x = self.embed(tokens, random)?;
        observe(&x);
        for layer in &self.layers {
            (x, _) = layer.forward(&x, None, &mut pass)?;
            observe(&x);
        }
        self.last_norm(&x)
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
        let positions = Positions::Cached {
            start: cache.length(),
            known: cache.known(),
        };
        let riders = alone(adapter, tokens);
        let mut pass = self.pass(tokens, positions, &riders, None, &mut scratch)?;
        let mut x = self.embed(tokens, None)?;
        for (index, layer) in self.layers.iter().enumerate() {
            (x, _) = layer.forward(&x, Some(cache.layer(index)), &mut pass)?;
        }
        cache.advance(length);
        self.last_norm(&x)
    }

    /// The log-probability, in nats, of each token but the first from the last hidden rows (T, H).
    pub(super) fn picked(&self, hidden: &Tensor, tokens: &[i64]) -> Result<Vec<f64>> {
        let scratch = &mut self.scratch.borrow_mut();
        let head = Head {
            matrix: &self.head().in_kind(scratch)?,
            gradient: None,
            settings: self.config.wiring.logits,
        };
        let targets = Targets::new(tokens.get(1..).unwrap_or_default())?;
        cross_entropy::log_probabilities(hidden, head, &targets)
    }

    /// The logits after each of these hidden rows (M, V), fp32.
    pub(super) fn logits_of(&self, hidden: &Tensor) -> Result<Tensor> {
        let scratch = &mut self.scratch.borrow_mut();
        let head = self.head().in_kind(scratch)?;
        logits::forward(hidden, &head, self.config.wiring.logits)
    }

    /// One layer, which need not be among those held, on rows x (M, H) of tokens (1, T).
    pub(super) fn forward_layer(
        &self,
        layer: &Layer,
        adapter: Option<&Lora>,
        tokens: &Tensor,
        x: &Tensor,
    ) -> Result<Tensor> {
        let riders = alone(adapter, tokens);
        let mut scratch = self.scratch.borrow_mut();
        let positions = Positions::Rows { lengths: None };
        let mut pass = self.pass(tokens, positions, &riders, None, &mut scratch)?;
        Ok(layer.forward(x, None, &mut pass)?.0)
    }

    /// Tokens (1, T), each one that the model knows.
    pub(super) fn tokens(&self, tokens: &[i64]) -> Result<Tensor> {
        for token in tokens {
            self.check_token(*token)?;
        }
        if tokens.is_empty() {
            return Err(Error::Input("no tokens, expected at least one".to_owned()));
        }
        Ok(Tensor::f_from_slice(tokens)?.f_unsqueeze(0)?)
    }

    /// Refuses a token that the model does not know. Asked on the host, where tokens come from.
    fn check_token(&self, token: i64) -> Result<()> {
        if (0..self.config.vocabulary_size).contains(&token) {
            return Ok(());
        }
        Err(Error::Input(format!(
            "token id {token}, expected 0 to {}: the tokenizer belongs to another model",
            self.config.vocabulary_size - 1
        )))
    }

    fn head(&self) -> &Dense {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Tokens (B, T) to the first layer's input (M, H).
    pub(super) fn embed(&self, tokens: &Tensor, random: Option<Randomness>) -> Result<Tensor> {
        let multiplier = self.config.wiring.embedding_multiplier;
        let mut x = embedding::forward(&self.embedding.value, tokens, self.compute, multiplier)?;
        if let Some(random) = random {
            random.add_noise(&mut x, tokens.size2()?.1)?;
        }
        Ok(x)
    }

    pub(super) fn last_norm(&self, x: &Tensor) -> Result<Tensor> {
        Ok(rms_norm::forward(x, &self.final_norm.value, self.config.norm())?.0)
    }

    /// A pass over tokens (B, T). Where frequencies depend on the length of the sequence, that of each token's own document
    /// counts: what transformers computes of the document alone. With a cache it is the number of tokens so far.
    fn pass<'a>(
        &'a self,
        tokens: &Tensor,
        positions: Positions<'a>,
        riders: &'a [Rider<'a>],
        random: Option<Randomness>,
        scratch: &'a mut Scratch,
    ) -> Result<Pass<'a>> {
        let config = &self.config;
        let (batch, length) = tokens.size2()?;
        let numbers = positions.numbers(length)?; // (T) or (B, T)
        let rotation = |rope| positions.rotation(rope, &numbers, (batch, length));
        Ok(Pass {
            config,
            rotations: config
                .ropes()
                .into_iter()
                .map(rotation)
                .collect::<Result<_>>()?,
            documents: match positions {
                Positions::Documents(documents) => Some(documents),
                Positions::Rows { .. } | Positions::Cached { .. } => None,
            },
            riders,
            random,
            scratch,
            shape: (batch, length),
        })
    }
}

/// One adapter or none for all of tokens (B, T).
fn alone<'a>(adapter: Option<&'a Lora>, tokens: &Tensor) -> [Rider<'a>; 1] {
    let rows = tokens.numel() as i64;
    [Rider { rows, adapter }]
}
