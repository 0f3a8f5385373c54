//! `golden.json`: log-probabilities of a few rows under the base and under base + adapter, in the type that an engine
//! serves.
//!
//! Training in 4 bit sees another base than engines serve, unless the base itself is saved in 4 bits. What is promised here
//! is what an engine must answer, so the base is held as it will be there.

use finetune_crds::contract::golden::{Golden, GoldenSample};
use finetune_dataset::TokenizedRow;
use finetune_numerics::adapter::Lora;
use finetune_numerics::device::kind_name;
use finetune_numerics::model::{Base, TextScores, score_layer_by_layer};

use crate::failure::Failure;
use crate::job::{Job, TrainingMethod};
use crate::run::inputs::Inputs;

/// How many rows.
const SAMPLES: usize = 4;
/// The most tokens of each.
const MAX_TOKENS: usize = 96;
/// The greatest mean absolute difference, in nats, from an engine that computes the same model in another way. By
/// `tests/parity/golden_spread.py` another attention kernel in fp32 moves SmolLM2-135M by 3e-6, bfloat16 by 0.04 (the tiny
/// families by up to 0.03), and the same base in NF4, which is another one, by 0.7 (0.1 to 0.5).
const TOLERANCE: f64 = 0.1;

/// Computes the numbers for the first rows of the training data, on which an adapter moves the model most.
pub(super) fn compute(
    base: Base,
    lora: &Lora,
    job: &Job,
    inputs: &Inputs,
) -> Result<Golden, Failure> {
    let kind = base.compute();
    let texts: Vec<Vec<i64>> = inputs
        .data
        .train
        .iter()
        .filter(|row| row.tokens.len() > 1)
        .take(SAMPLES)
        .map(start_of)
        .collect();
    let is_served_dense = match &job.method {
        TrainingMethod::Qlora { .. } => inputs.base.quantization().is_none(),
        TrainingMethod::Full | TrainingMethod::Lora(_) => false,
    };
    let scores = if is_served_dense {
        // The 4-bit base has done its work; the dense one passes by layer by layer.
        drop(base);
        let weights = inputs.base.weights()?;
        score_layer_by_layer(inputs.base.config(), weights.as_ref(), kind, lora, &texts)?
    } else {
        let score = |tokens: &Vec<i64>| -> Result<TextScores, Failure> {
            Ok(TextScores {
                base: base.log_probabilities(None, tokens)?,
                adapter: base.log_probabilities(Some(lora), tokens)?,
            })
        };
        texts.iter().map(score).collect::<Result<_, _>>()?
    };
    let samples = texts.into_iter().zip(scores).map(|(tokens, scores)| {
        Ok(GoldenSample {
            tokens: tokens
                .into_iter()
                .map(u32::try_from)
                .collect::<Result<_, _>>()
                .map_err(Failure::internal)?,
            base: scores.base,
            adapter: scores.adapter,
        })
    });
    Ok(Golden {
        dtype: kind_name(kind).to_owned(),
        tolerance: TOLERANCE,
        samples: samples.collect::<Result<_, Failure>>()?,
    })
}

/// The first tokens of a row.
fn start_of(row: &TokenizedRow) -> Vec<i64> {
    let tokens = row.tokens.iter().take(MAX_TOKENS);
    tokens.map(|token| i64::from(*token)).collect()
}
