//! The values of flags, refused in words that say what is expected.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

/// A number of threads.
pub(super) fn threads(text: &str) -> Result<NonZeroU16, String> {
    parsed(text, "a whole number from 1 to 65535")
}

/// Where to listen.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    parsed(
        text,
        "an IP address and a port, such as 0.0.0.0:8480 or [::]:8480",
    )
}

/// A whole number.
pub(super) fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    parsed(text, "a whole number from 0 up")
}

/// A number that is not negative.
pub(super) fn from_0_up(text: &str) -> Result<f64, String> {
    number(text, "a number from 0 up", |number| number >= 0.0)
}

/// A share that is not nothing.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let expected = "a number above 0 and at most 1";
    number(text, expected, |number| number > 0.0 && number <= 1.0)
}

fn parsed<T: FromStr>(text: &str, expected: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected {expected}"))
}

fn number(text: &str, expected: &str, fits: fn(f64) -> bool) -> Result<f64, String> {
    let number: f64 = parsed(text, expected)?;
    match number.is_finite() && fits(number) {
        true => Ok(number),
        false => Err(format!("expected {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;

    #[test]
    fn a_wrong_value_is_refused_with_what_is_expected_and_no_word_of_the_implementation() {
        let generate = ["generate", "--prompt", "a"];
        for (command, flag, value, expected) in [
            (&generate[..], "--threads", "0", "from 1 to 65535"),
            (&generate[..], "--temperature", "warm", "a number from 0 up"),
            (&generate[..], "--temperature", "-1", "a number from 0 up"),
            (&generate[..], "--temperature", "NaN", "a number from 0 up"),
            (&generate[..], "--top-p", "7", "above 0 and at most 1"),
            (&generate[..], "--seed", "-5", "a whole number from 0 up"),
            (&generate[..], "--max-new-tokens", "1.5", "a whole number"),
            (
                &["train"][..],
                "--listen",
                "localhost",
                "and a port, such as",
            ),
        ] {
            let given = ["--file", "job.yaml", "--work", "out", flag, value];
            let arguments = ["trainer"].iter().chain(command).chain(&given);
            let message = Cli::try_parse_from(arguments).unwrap_err().to_string();
            assert!(
                message.contains(&format!("invalid value '{value}' for '{flag}"))
                    && message.contains(expected),
                "{message}"
            );
        }
    }

    #[test]
    fn right_values_are_taken() {
        let arguments = "trainer generate --file a --work b --prompt c --threads 2 --temperature 0.7 --top-p 1 --seed 5 --max-new-tokens 9";
        Cli::try_parse_from(arguments.split(' ')).unwrap();
    }
}
