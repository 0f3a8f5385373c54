//! Log-probabilities under the base in its stored type, of which one layer at a time is in memory: a base that was quantised for
//! training is never held dense for them.

use tch::{Kind, Tensor};

use super::loader::{LoadOptions, Loader, Storage};
use super::{Base, WeightSource};
use crate::adapter::Lora;
use crate::architecture::ModelConfig;
use crate::ops::Result;

/// The log-probabilities of a text of n tokens, in nats: n - 1 each, of tokens 1 to n - 1 given those before.
#[derive(Clone, Debug, PartialEq)]
pub struct TextScores {
    /// Under the base.
    pub base: Vec<f64>,
    /// Under base and adapter.
    pub adapter: Vec<f64>,
}

/// A text on its way through the layers.
struct Stream<'a> {
    tokens: &'a [i64],
    /// (1, T).
    batch: Tensor,
    /// The residual stream (T, H) under the base, and with the adapter.
    states: [Tensor; 2],
}

/// The log-probabilities of texts under base and base + adapter, with activations in `compute`: what
/// `Base::log_probabilities` of the whole dense base gives, to the bit. Beside embedding and head, one layer is held at a time.
pub fn score_layer_by_layer(
    config: &ModelConfig,
    source: &dyn WeightSource,
    compute: Kind,
    adapter: &Lora,
    texts: &[Vec<i64>],
) -> Result<Vec<TextScores>> {
    config.check()?;
    let options = LoadOptions {
        compute,
        storage: Storage::Frozen,
    };
    let loader = Loader::new(source, &options, None);
    let base = Base::without_layers(config, &loader)?;
    let mut streams = Vec::with_capacity(texts.len());
    for tokens in texts {
        let batch = base.tokens(tokens)?;
        let x = base.embed(&batch, None)?;
        streams.push(Stream {
            tokens,
            batch,
            states: [x.shallow_clone(), x],
        });
    }
    for index in 0..config.layers {
        let layer = loader.layer(config, index)?;
        for stream in &mut streams {
            for (state, lora) in stream.states.iter_mut().zip([None, Some(adapter)]) {
                *state = base.forward_layer(&layer, lora, &stream.batch, state)?;
            }
        }
    }
    let score = |stream: &Stream<'_>| {
        let of = |state: &Tensor| base.picked(&base.last_norm(state)?, stream.tokens);
        Ok(TextScores {
            base: of(&stream.states[0])?,
            adapter: of(&stream.states[1])?,
        })
    };
    streams.iter().map(score).collect()
}
