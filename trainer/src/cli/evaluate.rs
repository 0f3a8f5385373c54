//! `trainer evaluate`: a loss, without training.

use clap::{Args, ValueEnum};
use finetune_crds::contract::ExitCode;

use crate::evaluate::{self, Evaluation};
use crate::failure::Failure;
use crate::manifest_file::Job;
use crate::workplace::Workplace;

use super::arguments::JobArguments;
use super::end;

/// Compute the loss of the base, or of base and adapter, on the job's data.
///
/// Writes `<WORK>/evaluation.json` with rows, tokens and the mean loss over the tokens that carry loss, and prints it. The
/// base is held as the method holds it: in 4 bits for qlora.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    job: JobArguments,

    /// A PEFT adapter to put on the base: a directory or a URI. Default: the manifest's initialAdapter, or none.
    #[arg(long, value_name = "DIR-OR-URI", env = "FINETUNE_ADAPTER")]
    adapter: Option<String>,

    /// Which rows to look at.
    #[arg(long, value_enum, default_value_t = Rows::Train, env = "FINETUNE_ROWS")]
    rows: Rows,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rows {
    /// The training rows, in order.
    Train,
    /// The rows held back by `dataset.validation`.
    Validation,
}

pub(super) async fn run(arguments: Arguments) -> ExitCode {
    match evaluation(&arguments).await {
        Ok(evaluation) => {
            end::print(&evaluation);
            ExitCode::Done
        }
        Err(failure) => {
            end::report(&failure);
            failure.exit_code()
        }
    }
}

async fn evaluation(arguments: &Arguments) -> Result<Evaluation, Failure> {
    let job = Job::read(&arguments.job.file)?;
    arguments.job.set_threads();
    let place = Workplace::open(&job, &arguments.job.places())?;
    let rows = match arguments.rows {
        Rows::Train => evaluate::Rows::Train,
        Rows::Validation => evaluate::Rows::Validation,
    };
    evaluate::evaluate(&job, &place, rows, arguments.adapter.as_deref()).await
}
