//! All trained parameters and their gradients in two flat fp32 buffers; that of the gradients is made when the first is needed.
//!
//! One buffer makes the optimiser one loop, the gradient norm one sum and a checkpoint one write. The tensors that the
//! model computes with are views of it.

use std::cell::OnceCell;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::ops::cpu::memory::{slice, slice_mut};
use crate::ops::trained::{FlatGradients, Gradient, Revision};
use crate::ops::{Error, Result};

/// One tensor within the buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name in the file that it will be saved to.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// The index of its first element.
    pub offset: usize,
    /// Whether weight decay acts on it.
    pub decay: bool,
    /// Whether a step gives whole rows of it no gradient, as an embedding's of tokens that it does not see.
    pub sparse: bool,
}

/// A tensor that is to be trained.
#[derive(Clone, Debug, PartialEq)]
pub struct NewParameter {
    name: String,
    shape: Vec<i64>,
    decay: bool,
    sparse: bool,
}

impl NewParameter {
    /// A tensor on which weight decay acts if it is a matrix: the transformers Trainer spares biases and norms.
    pub const fn new(name: String, shape: Vec<i64>) -> Self {
        Self {
            name,
            decay: shape.len() > 1,
            shape,
            sparse: false,
        }
    }

    /// The same, and weight decay acts on it whatever its shape.
    #[must_use]
    pub fn decayed(self) -> Self {
        Self {
            decay: true,
            ..self
        }
    }

    /// The same, and a step gives whole rows of it no gradient.
    #[must_use]
    pub fn sparse(self) -> Self {
        Self {
            sparse: true,
            ..self
        }
    }
}

impl Parameter {
    /// The number of its elements.
    pub fn length(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }
}

/// Trained parameters and their gradients.
#[derive(Debug)]
pub struct Parameters {
    list: Vec<Parameter>,
    values: Tensor,
    gradients: Arc<FlatGradients>,
    /// The buffer of the gradients, once somebody has asked for it here.
    gradient_buffer: OnceCell<Tensor>,
    revision: Revision,
}

impl Parameters {
    /// These, one after the other, all zero.
    pub fn zeros(parameters: Vec<NewParameter>) -> Result<Self> {
        let mut list = Vec::with_capacity(parameters.len());
        let mut offset = 0;
        for NewParameter {
            name,
            shape,
            decay,
            sparse,
        } in parameters
        {
            let parameter = Parameter {
                name,
                shape,
                offset,
                decay,
                sparse,
            };
            offset += parameter.length();
            list.push(parameter);
        }
        if offset == 0 {
            return Err(Error::Configuration(
                "nothing to train: no parameter has any element".to_owned(),
            ));
        }
        Ok(Self {
            list,
            values: Tensor::f_zeros([offset as i64], (Kind::Float, Device::Cpu))?,
            gradients: FlatGradients::new(offset),
            gradient_buffer: OnceCell::new(),
            revision: Revision::default(),
        })
    }

    /// The tensors, in the order of the buffers.
    pub fn list(&self) -> &[Parameter] {
        &self.list
    }

    /// The number of trained numbers.
    pub fn count(&self) -> usize {
        self.values.numel()
    }

    /// All values, flat.
    pub fn values(&self) -> Result<&[f32]> {
        slice(&self.values)
    }

    /// All values, flat, to be written: for resuming and for the optimiser.
    pub fn values_mut(&mut self) -> Result<&mut [f32]> {
        self.revision.advance();
        slice_mut(&mut self.values)
    }

    /// All gradients, flat.
    pub fn gradients(&self) -> Result<&[f32]> {
        slice(self.gradient_buffer()?)
    }

    fn gradient_buffer(&self) -> Result<&Tensor> {
        if let Some(buffer) = self.gradient_buffer.get() {
            return Ok(buffer);
        }
        let buffer = self.gradients.tensor()?;
        Ok(self.gradient_buffer.get_or_init(|| buffer))
    }

    /// Values and gradients, flat, to be written.
    pub fn both_mut(&mut self) -> Result<(&mut [f32], &mut [f32])> {
        self.revision.advance();
        self.gradient_buffer()?;
        let Some(gradients) = self.gradient_buffer.get_mut() else {
            return Err(Error::Libtorch("the gradients have no buffer".to_owned()));
        };
        Ok((slice_mut(&mut self.values)?, slice_mut(gradients)?))
    }

    /// What advances whenever values are lent to be written.
    pub const fn revision(&self) -> &Revision {
        &self.revision
    }

    /// Sets all gradients to zero: the start of a step.
    pub fn zero_gradients(&mut self) -> Result<()> {
        if self.gradients.is_made() {
            let _ = self.gradients.tensor()?.f_zero_()?;
        }
        Ok(())
    }

    /// The value of a tensor, as a view. Who writes to it lets [`Self::revision`] advance.
    pub fn value(&self, parameter: &Parameter) -> Result<Tensor> {
        view(&self.values, parameter)
    }

    /// The gradient of a tensor, as a view.
    pub fn gradient(&self, parameter: &Parameter) -> Result<Tensor> {
        view(self.gradient_buffer()?, parameter)
    }

    /// The gradient of a tensor, to be added to.
    pub fn added_to(&self, parameter: &Parameter) -> Gradient {
        let shape = parameter.shape.clone();
        Gradient::new(Arc::clone(&self.gradients), parameter.offset, shape)
    }

    /// The tensor of this name.
    pub fn find(&self, name: &str) -> Option<&Parameter> {
        self.list.iter().find(|parameter| parameter.name == name)
    }
}

fn view(flat: &Tensor, parameter: &Parameter) -> Result<Tensor> {
    Ok(flat
        .f_narrow(0, parameter.offset as i64, parameter.length() as i64)?
        .f_view(&parameter.shape[..])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Parameters {
        let new = |name: &str| NewParameter::new(name.to_owned(), vec![2, 3]);
        Parameters::zeros(vec![new("first"), new("second")]).unwrap()
    }

    #[test]
    fn gradients_have_no_buffer_before_the_first_is_needed_and_are_zeros_then() {
        let mut parameters = two();
        let second = parameters.list()[1].clone();
        let gradient = parameters.added_to(&second);
        parameters.zero_gradients().unwrap();
        parameters.values_mut().unwrap()[0] = 1.0;
        assert!(!parameters.gradients.is_made());
        gradient
            .add(&Tensor::ones([2, 3], (Kind::Float, Device::Cpu)))
            .unwrap();
        assert_eq!(
            parameters.gradients().unwrap(),
            [[0.0; 6], [1.0; 6]].concat()
        );
        parameters.zero_gradients().unwrap();
        assert_eq!(parameters.gradients().unwrap(), [0.0; 12]);
    }
}
