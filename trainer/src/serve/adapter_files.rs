//! A PEFT folder becomes an adapter of this base, or an error that a client can act on.

use std::path::Path;

use finetune_crds::contract::layout;
use finetune_numerics::adapter::Lora;
use finetune_numerics::model::ModelConfig;

use super::api::ApiError;
use crate::peft;

/// Reads the adapter in `folder`. A missing file is a 404, an adapter that does not fit the base or the limits a 400, as no
/// other try would end differently.
pub(super) fn read(folder: &Path, config: &ModelConfig, most_rank: i64) -> Result<Lora, ApiError> {
    for file in [layout::ADAPTER_CONFIG, layout::ADAPTER_WEIGHTS] {
        if !folder.join(file).is_file() {
            let folder = folder.display();
            return Err(ApiError::not_found(
                None,
                format!("No adapter found at {folder}: there is no {file}"),
            ));
        }
    }
    let adapter =
        peft::read(folder, config).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let rank = adapter.lora.rank();
    if rank > most_rank {
        return Err(ApiError::bad_request(format!(
            "the adapter's rank is {rank}, expected at most {most_rank}; start the server with --max-adapter-rank {rank}"
        )));
    }
    Ok(adapter.lora)
}
