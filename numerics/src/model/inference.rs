//! What serving and comparing need: logits with a cache, log-probabilities of a given text, the residual stream.

use tch::Tensor;

use super::batch::Positions;
use super::{Base, KeyValueCache};
use crate::adapter::Lora;
use crate::ops::Result;

/// The rows of which logits are wanted: each costs a product with the whole vocabulary.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogitRows {
    /// Of every token.
    All,
    /// Of the last only.
    Last,
}

const ROWS: Positions<'_> = Positions::Rows { lengths: None };

impl Base {
    /// An empty cache for one sequence, of which `length` tokens are known so far: [`KeyValueCache::prepare`] tells of more.
    pub fn new_cache(&self, length: i64) -> KeyValueCache {
        let mut cache = KeyValueCache::new(self.config(), self.compute());
        cache.prepare(length);
        cache
    }

    /// The logits (T or 1, V) in fp32 after the next tokens of the sequence in the cache, which then holds these too. They are
    /// among those that the cache was told of.
    pub fn forward_cached(
        &self,
        adapter: Option<&Lora>,
        tokens: &[i64],
        cache: &mut KeyValueCache,
        rows: LogitRows,
    ) -> Result<Tensor> {
        let hidden = self.hidden_cached(adapter, &self.tokens(tokens)?, cache)?; // (T, H)
        match rows {
            LogitRows::All => self.logits_of(&hidden),
            LogitRows::Last => self.logits_of(&hidden.f_narrow(0, tokens.len() as i64 - 1, 1)?),
        }
    }

    /// The log-probability, in nats, of each token but the first given those before it.
    pub fn log_probabilities(&self, adapter: Option<&Lora>, tokens: &[i64]) -> Result<Vec<f64>> {
        let hidden = self.hidden(adapter, &self.tokens(tokens)?, ROWS, None, &mut |_| {})?; // (T, H)
        self.picked(&hidden, tokens)
    }

    /// The logits (B, T, V) in fp32 of tokens (B, T).
    pub fn logits(&self, adapter: Option<&Lora>, tokens: &Tensor) -> Result<Tensor> {
        let (batch, length) = tokens.size2()?;
        let tokens = &self.known(tokens)?;
        let hidden = self.hidden(adapter, tokens, ROWS, None, &mut |_| {})?;
        Ok(self.logits_of(&hidden)?.f_view([batch, length, -1])?)
    }

    /// The residual stream of tokens (B, T), (B, T, H) each: the embedding, every layer's output, and last that of the final norm. For
    /// comparison with other implementations.
    pub fn hidden_states(&self, adapter: Option<&Lora>, tokens: &Tensor) -> Result<Vec<Tensor>> {
        let (batch, length) = tokens.size2()?;
        let tokens = &self.known(tokens)?;
        let mut states = Vec::new();
        let mut observe = |x: &Tensor| states.push(x.shallow_clone());
        let last = self.hidden(adapter, tokens, ROWS, None, &mut observe)?;
        states.push(last);
        states
            .iter()
            .map(|state| Ok(state.f_view([batch, length, -1])?))
            .collect()
    }

    /// The tokens, if the model knows each of them. They are read for it.
    fn known(&self, tokens: &Tensor) -> Result<Tensor> {
        let flat = Vec::<i64>::try_from(tokens.f_reshape([-1])?)?;
        Ok(self.tokens(&flat)?.f_view_as(tokens)?)
    }
}
