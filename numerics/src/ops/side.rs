//! Which side of an operation computes a tensor: dispatch by device and by type.

use tch::{Device, Kind, Tensor};

use super::{Error, Result};

/// A device's side, in a type of activations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// The CPU's, in fp32.
    CpuFloat,
    /// The CPU's, in bfloat16.
    CpuBrain,
}

impl Side {
    /// The side that computes `tensor`, which is part of `what`. Other devices and types have none.
    pub(crate) fn of(tensor: &Tensor, what: &str) -> Result<Self> {
        match (tensor.device(), tensor.f_kind()?) {
            (Device::Cpu, Kind::Float) => Ok(Self::CpuFloat),
            (Device::Cpu, Kind::BFloat16) => Ok(Self::CpuBrain),
            (device, kind) => Err(Error::Libtorch(format!(
                "{what} of {kind:?} on {device:?}, expected Float or BFloat16 on the CPU"
            ))),
        }
    }
}
