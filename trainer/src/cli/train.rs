//! `trainer train`: the whole run.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use finetune_crds::contract::{ExitCode, Outcome, Stage};

use crate::failure::Failure;
use crate::manifest_file::Job;
use crate::progress::{self, Metrics, Reporter};
use crate::train::stop::Stop;
use crate::train::{self, Run};
use crate::workplace::Workplace;

use super::arguments::JobArguments;
use super::end;

/// Train, and publish the result.
///
/// Prepares the data first, unless `prepare` has done so. Started again, it goes on from the newest checkpoint; once
/// done, it prints the outcome and ends. SIGTERM and Ctrl-C make it checkpoint and exit with code 11.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    job: JobArguments,

    /// Serve /progress (JSON), /metrics (Prometheus) and /livez at this address, such as [::]:8480.
    #[arg(long, value_name = "ADDRESS", env = "FINETUNE_LISTEN")]
    listen: Option<SocketAddr>,

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
                Stage::Train,
                None,
                Err(error.into()),
                None,
                termination_message,
            );
        }
    };
    let reporter = match Metrics::new() {
        Ok(metrics) => Reporter::new(&job.uid, metrics),
        Err(error) => {
            return end::stage(
                Stage::Train,
                Some(&job),
                Err(Failure::internal(error)),
                None,
                termination_message,
            );
        }
    };
    let result = start(&arguments, &job, &reporter).await;
    reporter.finish();
    let progress = Some(reporter.progress());
    end::stage(
        Stage::Train,
        Some(&job),
        result,
        progress,
        termination_message,
    )
}

async fn start(arguments: &Arguments, job: &Job, reporter: &Reporter) -> Result<Outcome, Failure> {
    let stop = Stop::listen()?;
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
        stop: &stop,
        holder: &holder(),
        now: crate::clock::now,
    })
    .await
}

/// Who claims an attempt: the pod (its name is its host's) or machine, and the process.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} (process {})", host.trim(), std::process::id())
}
