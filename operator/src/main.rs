//! The binary `operator`: one subcommand for each of its lives. Wiring only.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use operator::controller;
use operator::runtime::telemetry;

/// Fine-tunes language models on Kubernetes and serves the result.
#[derive(Debug, Parser)]
#[command(name = "operator", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    telemetry: telemetry::Arguments,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Every flag can be set by the environment variable named beside it.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive FineTuneJobs: prepare, train, publish. Needs a cluster: its own ServiceAccount, or KUBECONFIG.
    Controller(controller::Arguments),
    /// Print completions for a shell, as in: operator completions bash > /etc/bash_completion.d/operator
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Controller(arguments) => match telemetry::start(&cli.telemetry) {
            Ok(()) => controller::run(arguments).await,
            Err(error) => Err(error),
        },
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "operator",
                &mut std::io::stdout(),
            );
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("operator: {error}");
            ExitCode::FAILURE
        }
    }
}
