//! Takes weights from their source into the form in which they are held.

use tch::{Device, Kind, Tensor};

use super::WeightSource;
use super::layer::{Layer, Norms};
use super::linears::Linears;
use super::self_attention::SelfAttention;
use crate::architecture::{BranchNorms, ModelConfig, Projection};
use crate::ops::four_bit::{Code, FourBitMatrix};
use crate::ops::linear::{Dense, Linear, Weight};
use crate::ops::{Error, Result};
use crate::optimizer::Parameters;

/// How the weights are held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Storage {
    /// Fixed, in the type of the activations.
    Frozen,
    /// Fixed, the linear layers but the output head in 4 bits, embedding and head in the type of the activations.
    FourBit {
        /// The code.
        code: Code,
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

/// A source, and the form that its weights take.
pub(super) struct Loader<'a> {
    source: &'a dyn WeightSource,
    names: Vec<String>,
    options: &'a LoadOptions,
    parameters: Option<&'a Parameters>,
}

impl<'a> Loader<'a> {
    /// What is trained becomes a view of `parameters`.
    pub(super) fn new(
        source: &'a dyn WeightSource,
        options: &'a LoadOptions,
        parameters: Option<&'a Parameters>,
    ) -> Self {
        Self {
            source,
            names: source.names(),
            options,
            parameters,
        }
    }

    /// The type of the activations.
    pub(super) const fn compute(&self) -> Kind {
        self.options.compute
    }

    /// The layer of this number, from 0.
    pub(super) fn layer(&self, config: &ModelConfig, layer: i64) -> Result<Layer> {
        let [attention, feed_forward] = config.wiring.norms.names();
        let mut by_projection = [const { None }; Projection::ALL.len()];
        for &projection in config.projections() {
            by_projection[projection as usize] = Some(self.linear(config, layer, projection)?);
        }
        let norms = config.query_key_norms(layer);
        Ok(Layer {
            norms: [
                self.norms(config, layer, attention)?,
                self.norms(config, layer, feed_forward)?,
            ],
            attention: SelfAttention {
                module: format!("{}.layers.{layer}.self_attn", config.wiring.decoder),
                norms: match norms.as_slice() {
                    [(query, queries), (key, keys)] => Some([
                        self.dense(query, queries, Kind::Float)?,
                        self.dense(key, keys, Kind::Float)?,
                    ]),
                    _ => None,
                },
                settings: config.attention(layer),
                rotation: config.rope_of(layer),
            },
            linears: Linears {
                layer: layer as usize,
                by_projection,
            },
        })
    }

    fn linear(&self, config: &ModelConfig, layer: i64, projection: Projection) -> Result<Linear> {
        let (output, input) = projection.shape(config);
        let module = projection.module(config, layer);
        let bias = match projection.has_bias(config) {
            true => Some(self.dense(&format!("{module}.bias"), &[output], Kind::Float)?),
            false => None,
        };
        let weight = self.matrix(&format!("{module}.weight"), &[output, input])?;
        Ok(Linear::new(weight, bias))
    }

    fn norms(&self, config: &ModelConfig, layer: i64, names: BranchNorms) -> Result<Norms> {
        let norm = |name: Option<&str>| {
            name.map(|name| {
                let name = config.norm_name(layer, name);
                self.dense(&name, &[config.hidden_size], Kind::Float)
            })
            .transpose()
        };
        Ok(Norms {
            before: norm(names.before)?,
            after: norm(names.after)?,
        })
    }

    fn matrix(&self, name: &str, shape: &[i64]) -> Result<Weight> {
        if self.source.is_quantized() {
            return self.matrix_as_stored(name, shape);
        }
        Ok(match self.options.storage {
            Storage::FourBit {
                code,
                double_quantization,
            } => Weight::FourBit(FourBitMatrix::quantise(
                &self.tensor(name, shape)?,
                code,
                double_quantization,
            )?),
            Storage::Frozen | Storage::Trained => {
                Weight::Dense(self.dense(name, shape, self.options.compute)?)
            }
        })
    }

    /// A matrix of a source that holds its linear layers in 4 bits: as it is there.
    fn matrix_as_stored(&self, name: &str, shape: &[i64]) -> Result<Weight> {
        if self.parameters.is_some() {
            return Err(Error::Configuration(
                "the base is saved in 4 bits, whose weights cannot be trained: use method qlora, or the base as it was \
                 before"
                    .to_owned(),
            ));
        }
        let Some(matrix) = self.source.four_bit(name)? else {
            return Ok(Weight::Dense(self.dense(
                name,
                shape,
                self.options.compute,
            )?));
        };
        let (rows, columns) = matrix.shape();
        if [rows, columns] != *shape {
            return Err(Error::Shape {
                name: name.to_owned(),
                found: vec![rows, columns],
                expected: shape.to_vec(),
            });
        }
        Ok(Weight::FourBit(matrix))
    }

    /// Fixed in `kind`, or a view of the parameters.
    pub(super) fn dense(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Dense> {
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
            gradient: Some(parameters.added_to(parameter)),
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
