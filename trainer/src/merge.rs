//! `trainer merge`: the base with an adapter merged into it, published as `output.mergedModel` publishes it.

use finetune_crds::contract::Published;

use crate::base::Fetch;
use crate::export;
use crate::failure::Failure;
use crate::job::Job;
use crate::outcome;
use crate::peft;
use crate::run::inputs;
use crate::workplace::Workplace;

/// Merges the adapter at `adapter`, or the one that the job has published, into the job's base, and publishes the model.
pub async fn merge(
    job: &Job,
    place: &Workplace,
    adapter: Option<&str>,
) -> Result<Published, Failure> {
    if job.method.adapter().is_none() {
        return Err(Failure::invalid(
            "spec.method is full, which makes a whole model: there is no adapter to merge",
        ));
    }
    let adapter = match adapter {
        Some(uri) => uri.to_owned(),
        None => published_adapter(job, place).await?,
    };
    let base = inputs::fetch(job, place, Fetch::Whole).await?;
    if let Some(quantization) = base.quantization() {
        return Err(Failure::invalid(format!(
            "spec.baseModel.uri is {}, which is saved in 4 bits ({quantization}), and nothing is merged into 4 bits: name the base as \
             it was before",
            job.spec.base_model.uri
        )));
    }
    let folder = peft::fetch(&adapter, &place.output_credentials, &place.cache).await?;
    let lora = peft::read(&folder, base.config())?.lora;
    let folder = place.temporary()?;
    export::write_merged(folder.path(), job, &base, &base.digest()?, &lora)?;
    let models = place.models(job)?;
    Ok(finetune_artifacts::publish::publish(&models, "", folder.path()).await?)
}

async fn published_adapter(job: &Job, place: &Workplace) -> Result<String, Failure> {
    outcome::find(&place.job_folder, job)
        .await?
        .and_then(|outcome| outcome.adapter)
        .map(|adapter| adapter.uri)
        .ok_or_else(|| {
            Failure::invalid(
                "the job has published no adapter yet: train first, or name one with --adapter",
            )
        })
}
