//! `golden.json`: log-probabilities of a few rows under the base and under base + adapter, in the type that an engine
//! serves.
//!
//! Training in 4 bit sees another base than engines serve, unless the base itself is saved in 4 bits. What is promised here
//! is what an engine must answer, so the base is held as it will be there.

use finetune_crds::contract::golden::{Golden, GoldenSample};

use crate::data::TokenizedRow;
use crate::device::kind_name;
use crate::failure::Failure;
use crate::manifest_file::Job;
use crate::method::Lora;
use crate::model::{Base, LoadOptions, Storage};
use crate::train::inputs::Inputs;

/// How many rows.
const SAMPLES: usize = 4;
/// The most tokens of each.
const MAX_TOKENS: usize = 96;
/// The greatest mean absolute difference, in nats, from an engine that sums in another order or holds the base in
/// bfloat16, where each activation is off by up to 2^-9 of itself.
const TOLERANCE: f64 = 0.1;

/// Computes the numbers for the first rows of the training data, on which an adapter moves the model most.
pub(super) fn compute(
    base: Base,
    lora: &Lora,
    job: &Job,
    inputs: &Inputs,
) -> Result<Golden, Failure> {
    let kind = base.compute();
    let base = if job.quantization().is_some() && inputs.base.quantization().is_none() {
        // First the 4-bit base goes, then the dense one comes.
        drop(base);
        let options = LoadOptions {
            compute: kind,
            storage: Storage::Frozen,
        };
        Base::load(
            inputs.base.config(),
            inputs.base.weights()?.as_ref(),
            &options,
        )?
    } else {
        base
    };
    let samples: Result<Vec<GoldenSample>, Failure> = inputs
        .data
        .train
        .iter()
        .filter(|row| row.tokens.len() > 1)
        .take(SAMPLES)
        .map(|row| sample(&base, lora, row))
        .collect();
    Ok(Golden {
        dtype: kind_name(kind).to_owned(),
        tolerance: TOLERANCE,
        samples: samples?,
    })
}

fn sample(base: &Base, lora: &Lora, row: &TokenizedRow) -> Result<GoldenSample, Failure> {
    let tokens = &row.tokens[..row.tokens.len().min(MAX_TOKENS)];
    let ids: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
    Ok(GoldenSample {
        tokens: tokens.to_vec(),
        base: base.log_probabilities(None, &ids)?,
        adapter: base.log_probabilities(Some(lora), &ids)?,
    })
}
