//! `trainer merge`: an adapter becomes ordinary weights.

use clap::Args;
use finetune_crds::contract::{ExitCode, Published};

use crate::failure::Failure;
use crate::merge;

use super::arguments::AdapterArguments;
use super::end;

/// Merge an adapter into the job's base, and publish the model.
///
/// Weights are read from the base's own files, one at a time, and written in the types in which they are stored there; a
/// model is never merged in 4 bits. Prints the URI and digest of the folder, which transformers, vLLM and `trainer serve`
/// load as they are. `output.mergedModel: true` in the manifest makes `train` do the same.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    of: AdapterArguments,
}

pub(super) async fn run(arguments: Arguments) -> ExitCode {
    end::printed(merged(&arguments.of).await)
}

async fn merged(arguments: &AdapterArguments) -> Result<Published, Failure> {
    let (job, place) = arguments.job.open()?;
    merge::merge(&job, &place, arguments.adapter.as_deref())
        .await
        .map_err(|failure| place.with_cure(failure))
}
