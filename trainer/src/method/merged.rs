//! A base with an adapter merged into it: W + s·B·A, with DoRA scaled row by row to its magnitudes, one weight at a time.
//!
//! The sum is made in fp32 from the weight as its file has it, and rounded once, to the type of the file.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::Lora;
use crate::model::{ModelConfig, WeightSource};
use crate::ops::Result;
use crate::ops::low_rank::LowRank;

/// The weights of base and adapter together, by the base's names.
pub struct Merged<'a> {
    base: &'a dyn WeightSource,
    /// By the name of the weight.
    adapters: BTreeMap<String, &'a LowRank>,
}

impl<'a> Merged<'a> {
    /// An adapter on the base that it was made for.
    pub fn new(base: &'a dyn WeightSource, config: &ModelConfig, lora: &'a Lora) -> Self {
        let mut adapters = BTreeMap::new();
        for layer in 0..config.layers {
            for &projection in config.projections() {
                if let Some(adapter) = &lora.layer(layer as usize)[projection as usize] {
                    let module = projection.module(config, layer);
                    adapters.insert(format!("{module}.weight"), adapter);
                }
            }
        }
        Self { base, adapters }
    }
}

impl WeightSource for Merged<'_> {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let weight = self.base.tensor(name)?;
        let Some(adapter) = self.adapters.get(name) else {
            return Ok(weight);
        };
        let kind = weight.f_kind()?;
        let delta = adapter.b.f_mm(&adapter.a)?.f_mul_scalar_(adapter.scaling)?; // (out, in)
        let mut merged = weight.f_to_kind(Kind::Float)?.f_add(&delta)?;
        if let Some(magnitude) = &adapter.magnitude {
            let norms = merged
                .f_square()?
                .f_sum_dim_intlist(1, false, Kind::Float)?
                .f_sqrt()?; // (out)
            merged = merged.f_mul(&magnitude.value.f_div(&norms)?.f_unsqueeze(1)?)?;
        }
        Ok(merged.f_to_kind(kind)?)
    }
}
