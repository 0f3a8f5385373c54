//! `trainer prepare`: everything that can be found wrong without training.

use std::path::PathBuf;

use clap::Args;
use finetune_crds::contract::{ExitCode, Outcome, Stage, layout};

use crate::data::lengths;
use crate::failure::Failure;
use crate::manifest_file::Job;
use crate::method::Lora;
use crate::outcome;
use crate::train::inputs;
use crate::train::plan::Plan;
use crate::workplace::Workplace;

use super::arguments::JobArguments;
use super::end;

/// Check and tokenise the data, and plan the run.
///
/// Needs no GPU and reads no weights. What is wrong with manifest, data or base ends it with code 10 and a message that
/// names the place.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    job: JobArguments,

    /// A file that gets the outcome as JSON, however the run ends.
    #[arg(long, value_name = "FILE", env = "FINETUNE_TERMINATION_MESSAGE")]
    termination_message: Option<PathBuf>,
}

pub(super) async fn run(arguments: Arguments) -> ExitCode {
    let termination_message = arguments.termination_message.as_deref();
    let job = match Job::read(&arguments.job.file) {
        Ok(job) => job,
        Err(error) => {
            return end::stage(
                Stage::Prepare,
                None,
                Err(error.into()),
                None,
                termination_message,
            );
        }
    };
    let result = prepared(&arguments, &job).await;
    end::stage(
        Stage::Prepare,
        Some(&job),
        result,
        None,
        termination_message,
    )
}

async fn prepared(arguments: &Arguments, job: &Job) -> Result<Outcome, Failure> {
    let place = Workplace::open(job, &arguments.job.places())?;
    let (base, data) = inputs::prepare(job, &place).await?;
    end::explain(&data.report.to_text());
    place
        .job_folder
        .write(layout::DATASET_REPORT, data.report.to_json().into())
        .await?;
    let plan = Plan::new(
        &job.spec,
        &lengths(&data.train),
        !data.validation.is_empty(),
    );
    let trainable_parameters = match job.lora() {
        Some(lora) => Lora::count(base.config(), &lora)?,
        None => base.config().parameters(),
    };
    Ok(Outcome {
        warnings: data.report.warnings,
        dataset: Some(data.report.dataset),
        base_model: Some(base.status(None)),
        plan: Some(plan.status(Some(trainable_parameters))),
        ..outcome::succeeded(job, Stage::Prepare, 0)
    })
}
