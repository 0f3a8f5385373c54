//! `trainer merge`: an adapter becomes ordinary weights.

use clap::Args;
use finetune_crds::contract::{ExitCode, Published};

use crate::failure::Failure;
use crate::manifest_file::Job;
use crate::merge;
use crate::workplace::Workplace;

use super::arguments::JobArguments;
use super::end;

/// Merge an adapter into the job's base, and publish the model.
///
/// Weights are read from the base's own files, one at a time, and written in the types in which they are stored there; a
/// model is never merged in 4 bits. Prints the URI and digest of the folder, which transformers, vLLM and `trainer serve`
/// load as they are. `output.mergedModel: true` in the manifest makes `train` do the same.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    job: JobArguments,

    /// The PEFT adapter: a directory or a URI. Default: the one that the job has published.
    #[arg(long, value_name = "DIR-OR-URI", env = "FINETUNE_ADAPTER")]
    adapter: Option<String>,
}

pub(super) async fn run(arguments: Arguments) -> ExitCode {
    match merged(&arguments).await {
        Ok(published) => {
            end::print(&published);
            ExitCode::Done
        }
        Err(failure) => {
            end::report(&failure);
            failure.exit_code()
        }
    }
}

async fn merged(arguments: &Arguments) -> Result<Published, Failure> {
    let job = Job::read(&arguments.job.file)?;
    arguments.job.set_threads();
    let place = Workplace::open(&job, &arguments.job.places())?;
    merge::merge(&job, &place, arguments.adapter.as_deref()).await
}
