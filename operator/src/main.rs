//! The binary `operator`: one subcommand for each of its lives. Wiring only.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use operator::runtime::{shutdown, telemetry};
use operator::{agent, controller};

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
    /// Drive FineTuneJobs, Adapters and inference Deployments. Needs a cluster: its own ServiceAccount, or KUBECONFIG.
    Controller(controller::Arguments),
    /// Run beside an inference engine: keep its adapters loaded, prove them, and proxy names to versions. Needs no cluster.
    Agent(agent::Arguments),
    /// Tell the agent of this pod that the pod is about to end. The agent's container runs it before it is stopped.
    PreStop(agent::pre_stop::Arguments),
    /// Print completions for a shell, as in: operator completions bash > /etc/bash_completion.d/operator
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("operator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Box<dyn std::error::Error>> {
    match cli.command {
        Command::Controller(arguments) => {
            telemetry::start(&cli.telemetry)?;
            controller::run(arguments).await?;
        }
        Command::Agent(arguments) => {
            telemetry::start(&cli.telemetry)?;
            agent::run(arguments, shutdown::token()?).await?;
        }
        Command::PreStop(arguments) => agent::pre_stop::announce(arguments).await?,
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "operator", &mut std::io::stdout());
        }
    }
    Ok(())
}
