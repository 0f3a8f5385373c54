//! `trainer generate`: an answer on the terminal.

use std::io::Write;

use clap::Args;
use finetune_crds::contract::ExitCode;

use crate::failure::Failure;
use crate::generate::{self, Request};

use super::arguments::AdapterArguments;
use super::{end, values};

/// Continue a prompt with what the job has made.
///
/// The prompt is put as a user's turn into the model's chat template, and the answer is written as it comes. The base is
/// held as the method holds it: in 4 bits for qlora.
#[derive(Args, Debug)]
#[command(
    after_help = "Example: trainer generate --file job.yaml --work out --prompt 'How do I return a lamp?'"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    of: AdapterArguments,

    /// What to answer.
    #[arg(long, value_name = "TEXT", env = "FINETUNE_PROMPT")]
    prompt: String,

    /// What the system says before it.
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "raw",
        env = "FINETUNE_SYSTEM"
    )]
    system: Option<String>,

    /// Continue the prompt as it is, without the chat template.
    #[arg(long, env = "FINETUNE_RAW")]
    raw: bool,

    /// The most tokens of the answer.
    #[arg(
        long,
        value_name = "COUNT",
        value_parser = values::whole::<usize>,
        allow_negative_numbers = true,
        default_value_t = 256,
        env = "FINETUNE_MAX_NEW_TOKENS"
    )]
    max_new_tokens: usize,

    /// How much chance decides: 0 always takes the likeliest token.
    #[arg(
        long,
        value_name = "NUMBER",
        value_parser = values::from_0_up,
        allow_negative_numbers = true,
        default_value_t = 0.0,
        env = "FINETUNE_TEMPERATURE"
    )]
    temperature: f64,

    /// Choose among the likeliest tokens that together have this probability.
    #[arg(
        long,
        value_name = "NUMBER",
        value_parser = values::share,
        allow_negative_numbers = true,
        default_value_t = 1.0,
        env = "FINETUNE_TOP_P"
    )]
    top_p: f64,

    /// Makes the choice repeatable. Default: another one each time.
    #[arg(long, value_name = "NUMBER", value_parser = values::whole::<u64>, allow_negative_numbers = true, env = "FINETUNE_SEED")]
    seed: Option<u64>,
}

pub(super) async fn run(arguments: Arguments) -> ExitCode {
    match generated(arguments).await {
        Ok(()) => ExitCode::Done,
        Err(failure) => {
            end::report(&failure);
            failure.exit_code()
        }
    }
}

async fn generated(arguments: Arguments) -> Result<(), Failure> {
    let (job, place) = arguments.of.job.open()?;
    let request = Request {
        prompt: arguments.prompt,
        system: arguments.system,
        raw: arguments.raw,
        adapter: arguments.of.adapter,
        max_new_tokens: arguments.max_new_tokens,
        temperature: arguments.temperature,
        top_p: arguments.top_p,
        seed: arguments.seed,
    };
    let mut output = std::io::stdout();
    generate::generate(&job, &place, &request, &mut |text| {
        output.write_all(text.as_bytes())?;
        output.flush()
    })
    .await
    .map_err(|failure| place.with_cure(failure))?;
    // A closed pipe is the reader's wish.
    let _ = writeln!(output);
    Ok(())
}
