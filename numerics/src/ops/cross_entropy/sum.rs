//! Sums of losses, which stay where they were computed until somebody reads them: once an optimiser step, not once a pass.

use tch::{Device, Kind, Tensor};

use crate::ops::Result;

/// The sum of token losses and the number of tokens in it.
#[derive(Debug)]
pub struct LossSum {
    /// The sum over tokens of -log p, in nats, and how many of them are the likeliest of all (2), fp64.
    pub(super) values: Tensor,
    tokens: i64,
}

/// What a sum of losses came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    /// The sum over tokens of -log p, in nats.
    pub loss: f64,
    /// The tokens that carry loss.
    pub tokens: i64,
    /// Those of them that are the likeliest of all.
    pub correct: i64,
}

impl LossSum {
    /// Of so many tokens nothing yet.
    pub(super) fn zero(tokens: i64, device: Device) -> Result<Self> {
        Ok(Self {
            values: Tensor::f_zeros([2], (Kind::Double, device))?,
            tokens,
        })
    }

    /// The sum of this and those of other passes, where there are any.
    pub fn with(mut self, others: Option<Self>) -> Result<Self> {
        if let Some(others) = others {
            let _ = self.values.f_add_(&others.values)?;
            self.tokens += others.tokens;
        }
        Ok(self)
    }

    /// What they came to. Waits for what is being computed.
    pub fn read(&self) -> Result<Losses> {
        let values = self.values.f_to(Device::Cpu)?;
        Ok(Losses {
            loss: values.f_double_value(&[0])?,
            tokens: self.tokens,
            correct: values.f_double_value(&[1])? as i64,
        })
    }
}
