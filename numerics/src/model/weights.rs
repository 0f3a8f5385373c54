//! Where a model's weights come from.

use std::collections::{BTreeMap, HashMap};

use tch::Tensor;

use crate::ops::four_bit::FourBitMatrix;
use crate::ops::{Error, Result};

/// Weights by Hugging Face name and in Hugging Face's layout (a GGUF reader puts the rows of q and k back).
pub trait WeightSource {
    /// The names of all tensors.
    fn names(&self) -> Vec<String>;

    /// A tensor on the CPU that owns its memory, in the type it is stored in (fp32 where the file has it quantised). A name that
    /// is not there is `Error::Source`.
    fn tensor(&self, name: &str) -> Result<Tensor>;

    /// The name under which a tensor lies in its file, where that is another.
    fn stored_name(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Whether the source holds linear layers in 4 bits. Those that it has dense are then meant to stay so.
    fn is_quantized(&self) -> bool {
        false
    }

    /// The matrix of a linear layer as the source holds it in 4 bits; `None` where it is dense.
    fn four_bit(&self, _name: &str) -> Result<Option<FourBitMatrix>> {
        Ok(None)
    }
}

impl WeightSource for HashMap<String, Tensor> {
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        get(Self::get(self, name), name)
    }
}

impl WeightSource for BTreeMap<String, Tensor> {
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        get(Self::get(self, name), name)
    }
}

fn get(tensor: Option<&Tensor>, name: &str) -> Result<Tensor> {
    tensor
        .map(Tensor::shallow_clone)
        .ok_or_else(|| Error::Source {
            name: name.to_owned(),
            source: "there is no tensor of that name".into(),
        })
}
