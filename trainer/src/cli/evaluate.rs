//! `trainer evaluate`: a loss, without training.

use clap::{Args, ValueEnum};
use finetune_crds::contract::ExitCode;

use crate::evaluate::{self, Evaluation};
use crate::failure::Failure;

use super::arguments::AdapterArguments;
use super::end;

/// Compute the loss of the base, or of base and adapter, on the job's data.
///
/// Writes `<WORK>/evaluation.json` with rows, tokens and the mean loss over the tokens that carry loss, and prints it. The
/// base is held as the method holds it: in 4 bits for qlora.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    of: AdapterArguments,

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
    end::printed(evaluation(&arguments).await)
}

async fn evaluation(arguments: &Arguments) -> Result<Evaluation, Failure> {
    let (job, place) = arguments.of.job.open()?;
    let rows = match arguments.rows {
        Rows::Train => evaluate::Rows::Train,
        Rows::Validation => evaluate::Rows::Validation,
    };
    evaluate::evaluate(&job, &place, rows, arguments.of.adapter.as_deref())
        .await
        .map_err(|failure| place.with_cure(failure))
}
