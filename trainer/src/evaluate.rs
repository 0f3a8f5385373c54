//! The loss of a base, with or without an adapter, on a job's data. Trains and publishes nothing.

use serde::Serialize;

use crate::failure::Failure;
use crate::job::Job;
use crate::objective::Model;
use crate::peft;
use crate::run::inputs::Inputs;
use crate::run::plan::micro_batch_size;
use crate::run::trainee::{load_base, objective};
use crate::workplace::Workplace;

/// The file in the job's folder.
const EVALUATION: &str = "evaluation.json";

/// Which rows are looked at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Rows {
    /// Those of `dataset.train`, without what is held back.
    #[default]
    Train,
    /// Those held back.
    Validation,
}

/// `evaluation.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// Rows looked at.
    pub rows: usize,
    /// Their tokens.
    pub tokens: u64,
    /// Those that carry loss.
    pub trainable_tokens: u64,
    /// The mean loss over the tokens that carry loss, or over pairs of answers, in nats.
    pub loss: f64,
}

/// Computes the loss of `job`'s base, held as the method holds it, and writes it to the job's folder. On the base is the
/// adapter at `adapter`, or else the one that the job goes on from, if there is one.
pub async fn evaluate(
    job: &Job,
    place: &Workplace,
    rows: Rows,
    adapter: Option<&str>,
) -> Result<Evaluation, Failure> {
    let inputs = Inputs::of(job, place).await?;
    let data = match rows {
        Rows::Train => &inputs.data.train,
        Rows::Validation => &inputs.data.validation,
    };
    if data.is_empty() {
        return Err(Failure::invalid(
            "dataset.validation is absent, so no rows are held back: add it, or use --rows train",
        ));
    }
    let base = load_base(job, &inputs.base)?;
    let folder = match adapter {
        Some(uri) => Some(peft::fetch(uri, &place.output_credentials, &place.cache).await?),
        None => inputs.initial_adapter.clone(),
    };
    let lora = folder
        .map(|folder| peft::read(&folder, base.config()))
        .transpose()?
        .map(|adapter| adapter.lora);
    let model = Model {
        base: &base,
        lora: lora.as_ref(),
    };
    let loss = objective(job, &inputs)?
        .loss(model, data, micro_batch_size(job), &|| true)?
        .ok_or_else(|| Failure::internal("an evaluation was left though nobody asked for it"))?;
    let evaluation = Evaluation {
        rows: data.len(),
        tokens: loss.tokens,
        trainable_tokens: loss.trainable_tokens,
        loss: loss.mean(),
    };
    let bytes = serde_json::to_vec_pretty(&evaluation).map_err(Failure::internal)?;
    place.job_folder.write(EVALUATION, bytes.into()).await?;
    Ok(evaluation)
}
