//! `trainer completions`: a script with which a shell completes our flags.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use finetune_crds::contract::ExitCode;

/// Print a completion script for a shell.
#[derive(Args, Debug)]
#[command(
    after_help = "Example: trainer completions bash > ~/.local/share/bash-completion/completions/trainer"
)]
pub(super) struct Arguments {
    /// The shell.
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    clap_complete::generate(
        arguments.shell,
        &mut super::Cli::command(),
        "trainer",
        &mut std::io::stdout(),
    );
    ExitCode::Done
}
