//! The result of a run as a folder to publish: weights, what they mean, and what proves them.
//!
//! The same run gives the same bytes, hence the same digest: nothing here holds a time, a path of this machine or a
//! score.

pub mod gguf_adapter;
mod golden;
mod merged;
mod model_card;
mod whole_model;

pub use merged::Merged;

use std::path::Path;

use finetune_artifacts::uri::Location;
use finetune_crds::contract::layout;
use finetune_numerics::adapter::Lora;

use crate::base::BaseModelFiles;
use crate::failure::Failure;
use crate::job::Job;
use crate::local_file;
use crate::peft::{self, AdapterConfig};
use crate::run::inputs::Inputs;
use crate::run::plan::Plan;
use crate::run::trainee::Trained;

/// Writes the result into `folder`, and into `merged` the base with the adapter merged into it. Takes the model apart: a 4-bit
/// base makes room for a layer of the dense one that engines serve.
pub(crate) fn write(
    folder: &Path,
    merged: Option<&Path>,
    job: &Job,
    inputs: &Inputs,
    plan: &Plan,
    trained: Trained,
) -> Result<(), Failure> {
    local_file::write(
        &folder.join("README.md"),
        model_card::text(job, inputs, plan),
    )?;
    match trained {
        Trained::All { parameters, .. } => {
            whole_model::write_trained(folder, &inputs.base, &parameters)?;
        }
        Trained::Adapter {
            base,
            lora,
            settings,
        } => {
            let base_name = base_name(&job.spec.base_model.uri);
            let config = AdapterConfig {
                revision: inputs.base.revision().map(str::to_owned),
                ..AdapterConfig::of_training(
                    inputs.base.config(),
                    &settings.lora,
                    settings.dropout,
                    &base_name,
                )
            };
            peft::write(folder, &config, &lora)?;
            if job.wants_gguf_adapter() {
                let about = gguf_adapter::About {
                    name: job.spec.adapter_name(&job.name).unwrap_or(&job.name),
                    base: &base_name,
                    revision: inputs.base.revision(),
                };
                let path = folder.join(layout::ADAPTER_GGUF);
                gguf_adapter::write(&path, inputs.base.config(), &lora, about)?;
            }
            let golden = golden::compute(base, &lora, job, inputs)?;
            let bytes = serde_json::to_vec(&golden).map_err(Failure::internal)?;
            local_file::write(&folder.join(layout::GOLDEN), bytes)?;
            if let Some(merged) = merged {
                write_merged(merged, job, &inputs.base, &inputs.base_digest, &lora)?;
            }
        }
    }
    Ok(())
}

/// The base's name as transformers and PEFT take it: `owner/name` of a repository of the Hub, else the URI.
fn base_name(uri: &str) -> String {
    match Location::parse(uri) {
        Ok(Location::Hub {
            repository, path, ..
        }) if path.is_empty() => repository,
        _ => shown(uri),
    }
}

/// A URI for what others read: the query of a signed URL stays out of it.
fn shown(uri: &str) -> String {
    match Location::parse(uri) {
        Ok(location @ Location::Https { .. }) => location.to_string(),
        _ => uri.to_owned(),
    }
}

/// Writes the base with the adapter merged into it into `folder`. Depends on nothing but the two, so that it has the same digest
/// whoever makes it.
pub(crate) fn write_merged(
    folder: &Path,
    job: &Job,
    base: &BaseModelFiles,
    base_digest: &str,
    lora: &Lora,
) -> Result<(), Failure> {
    local_file::write(
        &folder.join("README.md"),
        model_card::of_merged(job, base, base_digest),
    )?;
    whole_model::write_merged(folder, base, lora)
}
