//! How a command ends: the outcome on standard output, in the termination message, and as the exit code.

use std::io::Write;
use std::path::Path;

use finetune_crds::contract::{ExitCode, Outcome, OutcomeReason, Progress, Stage};
use serde::Serialize;

use crate::failure::{Failure, exit_code};
use crate::job::Job;
use crate::outcome;

/// Ends a stage well or badly. `job` is absent where not even the manifest could be read: `uid` is the one of the command line then,
/// without which nobody would take the outcome for this job's.
pub(super) fn stage(
    stage: Stage,
    job: Option<&Job>,
    uid: Option<&str>,
    result: Result<Outcome, Failure>,
    progress: Option<Progress>,
    termination_message: Option<&Path>,
) -> ExitCode {
    let outcome = match result {
        Ok(outcome) => {
            print(&outcome);
            outcome
        }
        Err(failure) => {
            report(&failure);
            let attempt = progress.as_ref().map_or(0, |progress| progress.attempt);
            let outcome = outcome::of_failure(job, stage, attempt, &failure, progress);
            match (job, uid) {
                (None, Some(uid)) => Outcome {
                    uid: uid.to_owned(),
                    ..outcome
                },
                _ => outcome,
            }
        }
    };
    if let Some(path) = termination_message
        && let Err(error) = outcome::write_termination_message(path, &outcome)
    {
        tracing::warn!(
            "failed to write the termination message {}: {error}",
            path.display()
        );
    }
    exit_code(outcome.reason)
}

/// Ends a command by hand, which has a result to print or a failure to tell of.
pub(super) fn printed(result: Result<impl Serialize, Failure>) -> ExitCode {
    match result {
        Ok(result) => {
            print(&result);
            ExitCode::Done
        }
        Err(failure) => {
            report(&failure);
            failure.exit_code()
        }
    }
}

/// Why a stage ends that was told to stop and has nothing to save.
pub(super) fn told_to_stop() -> Failure {
    Failure::new(
        OutcomeReason::Preempted,
        "told to stop; nothing was begun that is not made again: run it again",
    )
}

/// Says what went wrong, in the one place where a person looks.
pub(super) fn report(failure: &Failure) {
    if failure.reason == OutcomeReason::Preempted {
        tracing::info!("{failure}");
    } else {
        tracing::error!("{failure}");
    }
}

/// Prints a result for a person or a script.
pub(super) fn print(result: &impl Serialize) {
    if let Ok(text) = serde_json::to_string_pretty(result) {
        // A closed pipe is the reader's wish.
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}

/// Prints what a person reads beside the result.
pub(super) fn explain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

/// Ends a process that could not even start.
pub(super) fn failed_to_start(error: &std::io::Error) -> std::process::ExitCode {
    tracing::error!("failed to start: {error}");
    std::process::ExitCode::from(ExitCode::Retry.code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base, prepare};

    #[test]
    fn a_missing_bucket_is_known_as_one_from_wherever_it_is_told() {
        let missing = || finetune_artifacts::Error::BucketNotFound {
            word: "bucket",
            bucket: "nowhere".into(),
            endpoint: "http://store:9000".into(),
            uri: "s3://nowhere/.finetune/work/1/prepared/report.json".into(),
        };
        for failure in [
            Failure::from(missing()),
            Failure::from(prepare::Error::Store(missing())),
            Failure::from(base::Error::Store(missing())),
        ] {
            assert_eq!(failure.reason, OutcomeReason::NotFound);
            let bucket = failure.bucket.unwrap();
            assert!(bucket.uri.starts_with("s3://nowhere/.finetune/"));
            assert_eq!(
                bucket.problem,
                "bucket `nowhere` does not exist at http://store:9000"
            );
        }
    }
}
