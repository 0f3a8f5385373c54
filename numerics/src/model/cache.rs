//! The keys and values of the tokens seen so far, so that the next token costs one row. Memory is taken in blocks, as tokens
//! come.

use tch::{Device, Kind, Tensor};

use crate::architecture::ModelConfig;
use crate::ops::rope::Rope;
use crate::ops::{Error, Result};

/// Tokens for which memory is taken at a time.
pub const BLOCK: i64 = 64;

/// The keys and values of one sequence. They depend on the adapter: a cache serves one adapter only.
#[derive(Debug)]
pub struct KeyValueCache {
    /// The tokens of the sequence so far, computed or not.
    known: i64,
    length: i64,
    /// The tokens that there is memory for.
    room: i64,
    /// With a token more than each of these, all are turned by other frequencies.
    switch_lengths: Vec<i64>,
    /// Bytes of a token in all layers.
    token_bytes: i64,
    /// (1, K, room, D).
    shape: [i64; 4],
    kind: Kind,
    layers: Vec<LayerCache>,
}

/// One layer's share.
#[derive(Debug)]
pub(super) struct LayerCache {
    /// Keys, turned, then values: (1, K, room, D) each, absent without tokens.
    keys: Option<Tensor>,
    values: Option<Tensor>,
}

impl KeyValueCache {
    /// An empty cache for a sequence without tokens.
    pub(super) fn new(config: &ModelConfig, kind: Kind) -> Self {
        let layer = |_| LayerCache {
            keys: None,
            values: None,
        };
        let ropes = config.ropes().into_iter();
        Self {
            known: 0,
            length: 0,
            room: 0,
            switch_lengths: ropes.filter_map(Rope::switch_length).collect(),
            token_bytes: config.key_value_bytes(kind),
            shape: [1, config.key_value_heads, 0, config.head_dim],
            kind,
            layers: (0..config.layers).map(layer).collect(),
        }
    }

    /// The number of tokens in it.
    pub const fn length(&self) -> i64 {
        self.length
    }

    /// The memory it takes, in bytes.
    pub const fn bytes(&self) -> i64 {
        self.room * self.token_bytes
    }

    /// The tokens of the sequence that it was told of.
    pub(super) const fn known(&self) -> i64 {
        self.known
    }

    /// Makes ready for a sequence of now `length` tokens; returns how many of the first of them it holds. That is none where
    /// a sequence of so many tokens is turned by other frequencies than the shorter one was: all are computed again, once.
    ///
    /// Frequencies that change with every token (`Dynamic`) turn only the tokens to come, as in transformers.
    pub fn prepare(&mut self, length: i64) -> i64 {
        let crossed = |switch: &i64| (self.known > *switch) != (length > *switch);
        if self.switch_lengths.iter().any(crossed) {
            self.length = 0;
        }
        self.known = length;
        self.length
    }

    /// Takes the memory for `more` tokens. Fails if the cache was not told of so many.
    pub(super) fn reserve(&mut self, more: i64) -> Result<()> {
        let needed = self.length + more;
        if needed > self.known {
            return Err(Error::Input(format!(
                "{needed} tokens are more than the {} that the cache was prepared for",
                self.known
            )));
        }
        if needed > self.room {
            let room = blocks_of(needed) * BLOCK;
            let shape = [self.shape[0], self.shape[1], room, self.shape[3]];
            // Layer by layer, so that only one layer's share is there twice.
            for layer in &mut self.layers {
                grow(&mut layer.keys, shape, self.length, self.kind)?;
                grow(&mut layer.values, shape, self.length, self.kind)?;
            }
            self.room = room;
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

/// The blocks that so many tokens take.
pub const fn blocks_of(tokens: i64) -> i64 {
    (tokens + BLOCK - 1) / BLOCK
}

/// The first `length` tokens of a tensor, in one of another shape.
fn grow(tensor: &mut Option<Tensor>, shape: [i64; 4], length: i64, kind: Kind) -> Result<()> {
    let grown = Tensor::f_empty(shape, (kind, Device::Cpu))?;
    if let Some(tensor) = tensor
        && length > 0
    {
        grown
            .f_narrow(2, 0, length)?
            .f_copy_(&tensor.f_narrow(2, 0, length)?)?;
    }
    *tensor = Some(grown);
    Ok(())
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
        let write = |whole: &Option<Tensor>, part: &Tensor| -> Result<Tensor> {
            let whole = whole.as_ref().ok_or_else(|| {
                Error::Input("the cache has no memory for a token, expected `reserve`".to_owned())
            })?;
            whole.f_narrow(2, start, length)?.f_copy_(part)?;
            Ok(whole.f_narrow(2, 0, start + length)?)
        };
        Ok((write(&self.keys, keys)?, write(&self.values, values)?))
    }
}
