//! The loss of a base, with or without an adapter, on a job's data. Trains and publishes nothing.

use finetune_artifacts::uri::Location;
use serde::Serialize;

use crate::failure::Failure;
use crate::manifest_file::Job;
use crate::train::inputs::Inputs;
use crate::train::trainee::{Trainee, load_base};
use crate::workplace::Workplace;

/// The file in the job's folder.
const EVALUATION: &str = "evaluation.json";
/// Rows a forward pass where the manifest does not say.
const MICRO_BATCH_SIZE: usize = 8;

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
    /// The mean loss over the tokens that carry loss, in nats.
    pub loss: f64,
}

/// Computes the loss of `job`'s base, held as the method holds it, with the adapter at `adapter` on it if there is one,
/// and writes it to the job's folder.
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
    let lora = match adapter {
        Some(uri) => Some(fetch_adapter(uri, place, &inputs).await?),
        None => None,
    };
    let micro_batch_size = job
        .spec
        .training
        .micro_batch_size
        .map_or(MICRO_BATCH_SIZE, |size| size as usize);
    let loss = Trainee { base, lora }.loss(data, micro_batch_size)?;
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

async fn fetch_adapter(
    uri: &str,
    place: &Workplace,
    inputs: &Inputs,
) -> Result<crate::method::Lora, Failure> {
    let uri = Location::parse_folder(uri)?.to_string();
    let wanted = |path: &str| matches!(path, "adapter_config.json" | "adapter_model.safetensors");
    let folder = place
        .cache
        .directory(&uri, &place.output_credentials, wanted)
        .await?;
    Ok(crate::peft::read(&folder, inputs.base.config())?.lora)
}
