//! Logs on standard error, for people or for machines. Never logs a spec, a Secret or a row of data.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::Error;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags for logs, the same for every subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What a log line looks like.
    #[arg(
        long,
        env = "FINETUNE_LOG_FORMAT",
        value_enum,
        default_value_t,
        global = true
    )]
    pub log_format: LogFormat,
    /// What is logged: a level, or parts of the program with a level each, such as `info,operator=debug`.
    #[arg(
        long,
        env = "FINETUNE_LOG",
        value_name = "FILTER",
        default_value = "info,kube=warn,hyper=warn,tower=warn",
        global = true
    )]
    pub log: String,
}

/// Starts logging. To be called once.
pub fn start(arguments: &Arguments) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&arguments.log).map_err(|error| {
        Error::Argument(format!(
            "--log is `{}`, expected a filter such as `info,operator=debug`: {error}",
            arguments.log
        ))
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|error| Error::Argument(format!("logging was started twice: {error}")))
}
