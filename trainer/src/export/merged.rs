//! A base with an adapter merged into it, one weight at a time.
//!
//! The sum is made in fp32 from the weight as its file has it, and rounded once, to the type of the file.

use finetune_numerics::adapter::Lora;
use finetune_numerics::model::WeightSource;
use finetune_numerics::ops::Result;
use tch::Tensor;

/// The weights of base and adapter together, by the base's names.
pub struct Merged<'a> {
    base: &'a dyn WeightSource,
    lora: &'a Lora,
}

impl<'a> Merged<'a> {
    /// An adapter on the base that it was made for.
    pub const fn new(base: &'a dyn WeightSource, lora: &'a Lora) -> Self {
        Self { base, lora }
    }
}

impl WeightSource for Merged<'_> {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn stored_name(&self, name: &str) -> String {
        self.base.stored_name(name)
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let weight = self.base.tensor(name)?;
        let merged = match name.strip_suffix(".weight") {
            Some(module) => self.lora.merged(module, &weight)?,
            None => None,
        };
        match merged {
            Some(merged) => Ok(merged.f_to_kind(weight.f_kind()?)?),
            None => Ok(weight),
        }
    }
}
