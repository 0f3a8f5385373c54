//! How a template prints values: as Python's `str` does, which Jinja uses. A text is itself; within a list or an object it is
//! quoted as Python's `repr` quotes it.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Output, State, Value};

use super::fuel::{self, MOST_LEVELS};

/// Prints what stands between `{{` and `}}`.
pub(super) fn print(output: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let text = python_str(state, value)?;
    output.write_str(&text).map_err(Error::from)
}

/// `value | string`.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that minijinja calls"
)]
pub(super) fn string(state: &State<'_, '_>, value: Value) -> Result<String, Error> {
    python_str(state, &value)
}

/// The value as Python's `str` has it; empty where it is undefined. What is no text is paid for.
pub(super) fn python_str(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => {
            fuel::pay(state, fuel::weight(state, value)?)?;
            let mut text = String::new();
            repr(value, 0, &mut text)?;
            Ok(text)
        }
    }
}

fn repr(value: &Value, level: usize, text: &mut String) -> Result<(), Error> {
    if level > MOST_LEVELS {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a value with more than {MOST_LEVELS} levels is printed"),
        ));
    }
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => text.push_str("None"),
        ValueKind::Bool => text.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if !value.is_integer() => {
            text.push_str(&python_float(f64::try_from(value.clone())?));
        }
        ValueKind::String => quote(value.as_str().unwrap_or_default(), text),
        ValueKind::Seq => {
            let (open, close) = match value.is_tuple() {
                true => ('(', ')'),
                false => ('[', ']'),
            };
            text.push(open);
            let mut items = 0;
            for item in value.try_iter()? {
                text.push_str(if items == 0 { "" } else { ", " });
                repr(&item, level + 1, text)?;
                items += 1;
            }
            text.push_str(if value.is_tuple() && items == 1 {
                ","
            } else {
                ""
            });
            text.push(close);
        }
        ValueKind::Map => {
            text.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                repr(&key, level + 1, text)?;
                text.push_str(": ");
                repr(&value.get_item(&key)?, level + 1, text)?;
            }
            text.push('}');
        }
        _ => write!(text, "{value}")?,
    }
    Ok(())
}

/// A number as Python writes it: an exponent below 1e-4 and from 1e16 on, with a sign and at least two digits.
pub(super) fn python_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{value:?}"),
    }
}

/// Single quotes, but where only these stand in the text double ones.
fn quote(value: &str, text: &mut String) {
    let quote = match value.contains('\'') && !value.contains('"') {
        true => '"',
        false => '\'',
    };
    text.push(quote);
    for character in value.chars() {
        match character {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\\' => text.push_str("\\\\"),
            _ if character == quote => text.extend(['\\', character]),
            _ if character.is_ascii_control() => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\x{:02x}", character as u32);
            }
            _ => text.push(character),
        }
    }
    text.push(quote);
}
