//! The keys and values of the tokens seen so far, so that the next token costs one row.

use tch::{Device, Kind, Tensor};

use super::ModelConfig;
use crate::ops::{Error, Result};

/// The keys and values of one sequence. They depend on the adapter: a cache serves one adapter only.
#[derive(Debug)]
pub struct KeyValueCache {
    capacity: i64,
    length: i64,
    layers: Vec<LayerCache>,
}

/// One layer's share.
#[derive(Debug)]
pub(super) struct LayerCache {
    /// Keys, turned, then values: (1, K, capacity, D) each.
    keys: Tensor,
    values: Tensor,
}

impl KeyValueCache {
    /// An empty cache for at most `capacity` tokens.
    pub(super) fn new(config: &ModelConfig, capacity: i64, kind: Kind) -> Result<Self> {
        let shape = [1, config.key_value_heads, capacity, config.head_dim];
        let tensor = || Tensor::f_empty(shape, (kind, Device::Cpu));
        let layer = |_| {
            Ok(LayerCache {
                keys: tensor()?,
                values: tensor()?,
            })
        };
        let layers = (0..config.layers).map(layer).collect::<Result<_>>()?;
        Ok(Self {
            capacity,
            length: 0,
            layers,
        })
    }

    /// The number of tokens seen.
    pub const fn length(&self) -> i64 {
        self.length
    }

    /// The number of tokens it can hold.
    pub const fn capacity(&self) -> i64 {
        self.capacity
    }

    /// Fails if `more` tokens do not fit.
    pub(super) fn reserve(&self, more: i64) -> Result<()> {
        if self.length + more > self.capacity {
            return Err(Error::Input(format!(
                "{} tokens are more than the cache's {}, expected a shorter prompt or answer",
                self.length + more,
                self.capacity
            )));
        }
        Ok(())
    }

    pub(super) fn layer(&mut self, index: usize) -> (&mut LayerCache, i64) {
        (&mut self.layers[index], self.length)
    }

    /// Counts tokens that every layer has appended.
    pub(super) const fn advance(&mut self, by: i64) {
        self.length += by;
    }
}

impl LayerCache {
    /// Writes keys and values (1, K, T, D) at position `start`; returns all so far, (1, K, S, D) each.
    pub(super) fn append(
        &mut self,
        start: i64,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let length = keys.size()[2];
        let write = |whole: &Tensor, part: &Tensor| -> Result<Tensor> {
            whole.f_narrow(2, start, length)?.f_copy_(part)?;
            Ok(whole.f_narrow(2, 0, start + length)?)
        };
        Ok((write(&self.keys, keys)?, write(&self.values, values)?))
    }
}
