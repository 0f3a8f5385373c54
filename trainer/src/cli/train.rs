//! `trainer train`: the whole run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clap::Args;
use finetune_crds::contract::{ExitCode, Outcome, Stage};

use crate::failure::Failure;
use crate::job::Job;
use crate::progress::{self, Metrics, Reporter};
use crate::run::Run;
use crate::stop::{Signal, Stop};
use crate::train::{self, told_to_stop};
use crate::workplace::Workplace;

use super::arguments::JobArguments;
use super::{end, values};

/// Train, and publish the result.
///
/// Prepares the data first, unless `prepare` has done so. Started again, it goes on from the newest checkpoint; once
/// done, it prints the outcome and ends. SIGTERM and Ctrl-C make it save the last complete step and exit with code 11.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    job: JobArguments,

    /// Serve /progress (JSON), /metrics (Prometheus) and /livez at this address, such as [::]:8480.
    #[arg(long, value_name = "ADDRESS", value_parser = values::address, env = "FINETUNE_LISTEN")]
    listen: Option<SocketAddr>,

    /// A file that gets the outcome as JSON, however the run ends.
    #[arg(long, value_name = "FILE", env = "FINETUNE_TERMINATION_MESSAGE")]
    termination_message: Option<PathBuf>,
}

/// What is to be said of a run at its end.
#[derive(Debug, Default)]
struct Known {
    /// The job's UID, as the command line says it.
    uid: Option<String>,
    job: OnceLock<Job>,
    reporter: OnceLock<Reporter>,
}

impl Known {
    /// Ends the run, however it went.
    fn end(
        &self,
        result: Result<Outcome, Failure>,
        termination_message: Option<&Path>,
    ) -> ExitCode {
        let reporter = self.reporter.get();
        if let Some(reporter) = reporter {
            reporter.finish();
        }
        let progress = reporter.map(Reporter::progress);
        end::stage(
            Stage::Train,
            self.job.get(),
            self.uid.as_deref(),
            result,
            progress,
            termination_message,
        )
    }

    /// Ends a run that makes no steps now and was told to stop.
    fn end_told(&self, termination_message: Option<&Path>) -> ExitCode {
        let failure = self
            .reporter
            .get()
            .map_or_else(end::told_to_stop, told_to_stop);
        self.end(Err(failure), termination_message)
    }
}

pub(super) async fn run(arguments: Arguments) -> ExitCode {
    let termination_message = arguments.termination_message.as_deref();
    let known = Arc::new(Known {
        uid: arguments.job.job_uid.clone(),
        ..Known::default()
    });
    let last_words = {
        let (known, path) = (Arc::clone(&known), arguments.termination_message.clone());
        move |_: Signal| known.end_told(path.as_deref()).code()
    };
    let stop = match Stop::listen(last_words) {
        Ok(stop) => stop,
        Err(error) => return known.end(Err(error.into()), termination_message),
    };
    match stop.or(Box::pin(start(&arguments, &known, &stop))).await {
        Ok(result) => known.end(result, termination_message),
        Err(_) => known.end_told(termination_message),
    }
}

async fn start(arguments: &Arguments, known: &Known, stop: &Stop) -> Result<Outcome, Failure> {
    let job = arguments.job.read()?;
    let job = known.job.get_or_init(|| job);
    let metrics = Metrics::new().map_err(Failure::internal)?;
    let reporter = known
        .reporter
        .get_or_init(|| Reporter::new(&job.uid, metrics));
    arguments.job.set_threads();
    if let Some(address) = arguments.listen {
        let bound = progress::serve(address, reporter.clone())
            .await
            .map_err(|error| {
                Failure::internal(format!(
                    "failed to listen on {address}: {error}; choose another with --listen"
                ))
            })?;
        tracing::info!("progress at http://{bound}/progress");
    }
    let place = Workplace::open(job, &arguments.job.places())?;
    train::train(&Run {
        job,
        place: &place,
        reporter,
        stop,
        holder: &holder(),
        now: crate::clock::now,
    })
    .await
    .map_err(|failure| place.with_cure(failure))
}

/// Who claims an attempt: the pod (its name is its host's) or machine, and the process.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} (process {})", host.trim(), std::process::id())
}
