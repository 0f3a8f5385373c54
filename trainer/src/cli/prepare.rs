//! `trainer prepare`: everything that can be found wrong without training.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use clap::Args;
use finetune_crds::contract::{ExitCode, Outcome, Stage, layout};
use finetune_dataset::lengths;
use finetune_numerics::adapter::Lora;

use crate::failure::Failure;
use crate::job::{Job, TrainingMethod};
use crate::outcome;
use crate::run::inputs;
use crate::run::plan::Plan;
use crate::stop::{Signal, Stop};
use crate::workplace::Workplace;

use super::arguments::JobArguments;
use super::end;

/// Check and tokenise the data, and plan the run.
///
/// Reads no weights. What is wrong with manifest, data or base ends it with code 10 and a message that
/// names the place. SIGTERM and Ctrl-C end it at once, with code 11.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    job: JobArguments,

    /// A file that gets the outcome as JSON, however the run ends.
    #[arg(long, value_name = "FILE", env = "FINETUNE_TERMINATION_MESSAGE")]
    termination_message: Option<PathBuf>,
}

pub(super) async fn run(arguments: Arguments) -> ExitCode {
    let known: Arc<OnceLock<Job>> = Arc::default();
    let end = {
        let (known, uid) = (Arc::clone(&known), arguments.job.job_uid.clone());
        let path = arguments.termination_message.clone();
        move |result: Result<Outcome, Failure>| {
            end::stage(
                Stage::Prepare,
                known.get(),
                uid.as_deref(),
                result,
                None,
                path.as_deref(),
            )
        }
    };
    let last_words = {
        let end = end.clone();
        move |_: Signal| end(Err(end::told_to_stop())).code()
    };
    let result = match Stop::listen(last_words) {
        Ok(stop) => stop.or(Box::pin(prepared(&arguments, &known))).await,
        Err(error) => Ok(Err(error.into())),
    };
    end(result.unwrap_or_else(|_| Err(end::told_to_stop())))
}

async fn prepared(arguments: &Arguments, known: &OnceLock<Job>) -> Result<Outcome, Failure> {
    let job = arguments.job.read()?;
    let job = known.get_or_init(|| job);
    let place = Workplace::open(job, &arguments.job.places())?;
    prepared_in(&place, job)
        .await
        .map_err(|failure| place.with_cure(failure))
}

async fn prepared_in(place: &Workplace, job: &Job) -> Result<Outcome, Failure> {
    let (base, data) = inputs::prepare(job, place).await?;
    end::explain(&data.report.to_text());
    place
        .job_folder
        .write(layout::DATASET_REPORT, data.report.to_json().into())
        .await?;
    let plan = Plan::new(job, &lengths(&data.train), !data.validation.is_empty());
    let trainable_parameters = match &job.method {
        TrainingMethod::Full => base.config().parameters(),
        TrainingMethod::Lora(adapter) | TrainingMethod::Qlora { adapter, .. } => {
            Lora::count(base.config(), &adapter.lora)?
        }
    };
    Ok(Outcome {
        warnings: data.report.warnings,
        dataset: Some(data.report.dataset),
        base_model: Some(base.status(None)),
        plan: Some(plan.status(Some(trainable_parameters))),
        ..outcome::succeeded(job, Stage::Prepare, 0)
    })
}
