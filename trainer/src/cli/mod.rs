//! The command line: what was typed becomes calls of the library, and their results become exit codes.
//!
//! Nothing is decided here that a caller of the library would have to decide again.

mod arguments;
mod completions;
mod end;
mod evaluate;
mod generate;
mod merge;
mod prepare;
mod serve;
mod train;
mod values;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use finetune_crds::contract;
use tracing_subscriber::EnvFilter;

use crate::stop::{Signal, Stop};

use arguments::LogFormat;

/// Fine-tunes a language model, with or without Kubernetes.
#[derive(Debug, Parser)]
#[command(
    name = "trainer",
    version,
    after_help = "Example, all by hand:\n  \
        trainer train --file job.yaml --work out\n  \
        trainer evaluate --file job.yaml --work out --rows validation --adapter file:///…/sha256-…/\n  \
        trainer generate --file job.yaml --work out --prompt 'How do I return a lamp?'\n\n\
        Exit codes: 0 done, 10 the manifest, data or base is at fault, 11 `prepare` or `train` was told to stop (run \
        it again: `train` goes on from its last checkpoint), 12 out of memory, 13 the loss is no longer a number, 1 anything \
        that another try may mend. Told to stop by SIGTERM or Ctrl-C, the other commands end with 143 or 130."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// How log lines look on standard error; what is logged is set by RUST_LOG.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "FINETUNE_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    Prepare(prepare::Arguments),
    Train(train::Arguments),
    Evaluate(evaluate::Arguments),
    Merge(merge::Arguments),
    Generate(generate::Arguments),
    Serve(Box<crate::serve::Options>),
    Completions(completions::Arguments),
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return end::failed_to_start(&error),
    };
    // The command runs on this thread, where it may block; signals, the progress server and transfers run on the others.
    let code = runtime.block_on(async {
        match cli.command {
            Command::Prepare(arguments) => prepare::run(arguments).await.code(),
            Command::Train(arguments) => train::run(arguments).await.code(),
            Command::Evaluate(arguments) => {
                until_told(|_| Box::pin(evaluate::run(arguments))).await
            }
            Command::Merge(arguments) => until_told(|_| Box::pin(merge::run(arguments))).await,
            Command::Generate(arguments) => {
                until_told(|_| Box::pin(generate::run(arguments))).await
            }
            Command::Serve(options) => {
                until_told(|stop| async move { serve::run(&options, &stop).await }).await
            }
            Command::Completions(arguments) => completions::run(&arguments).code(),
        }
    });
    // What was told to stop may have left a task behind that blocks; nobody waits for it.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Runs a command that is left as it is when the process is told to stop, unless it asks to finish something first. Returns
/// its exit code, or that of the signal.
async fn until_told<R: Future<Output = contract::ExitCode>>(command: impl FnOnce(Stop) -> R) -> u8 {
    let stop = match Stop::listen(Signal::exit_code) {
        Ok(stop) => stop,
        Err(error) => {
            end::report(&error.into());
            return contract::ExitCode::Retry.code();
        }
    };
    match stop.or(command(stop.clone())).await {
        Ok(code) => code.code(),
        Err(signal) => signal.exit_code(),
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent_and_every_flag_has_an_environment_variable() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            for flag in command
                .get_arguments()
                .filter(|flag| flag.get_long().is_some())
            {
                assert!(
                    flag.get_env().is_some(),
                    "{} --{}",
                    command.get_name(),
                    flag.get_id()
                );
            }
        }
    }
}
