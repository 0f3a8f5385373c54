//! A PEFT folder becomes an adapter of this base, or an error that a client can act on.

use std::path::Path;

use finetune_crds::contract::layout;
use finetune_numerics::adapter::Lora;
use finetune_numerics::architecture::ModelConfig;

use super::request_error::RequestError;
use crate::peft;

/// Reads the adapter in `folder`. One that does not fit the base or the limits is the request's fault, as no other try would end
/// differently.
pub(super) fn read(
    folder: &Path,
    config: &ModelConfig,
    most_rank: i64,
) -> Result<Lora, RequestError> {
    for file in [layout::ADAPTER_CONFIG, layout::ADAPTER_WEIGHTS] {
        if !folder.join(file).is_file() {
            return Err(RequestError::MissingAdapter {
                folder: folder.display().to_string(),
                file,
            });
        }
    }
    let adapter =
        peft::read(folder, config).map_err(|error| RequestError::Request(error.to_string()))?;
    let rank = adapter.lora.rank();
    if rank > most_rank {
        return Err(RequestError::Request(format!(
            "the adapter's rank is {rank}, expected at most {most_rank}; start the server with --max-adapter-rank {rank}"
        )));
    }
    Ok(adapter.lora)
}
