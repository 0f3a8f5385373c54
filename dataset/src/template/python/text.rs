//! Python's methods on texts.

use std::sync::LazyLock;

use minijinja::value::Tuple;
use minijinja::{Error, State, Value};
use regex::Regex;

use super::arguments::{Arguments, number, range};
use super::fault;
use crate::template::fuel::pay;

/// The result of `name`; `None` where this is no method that is done here.
pub(super) fn method(
    state: &State<'_, '_>,
    text: &str,
    name: &str,
    arguments: &Arguments<'_>,
) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => stripped(text, name, arguments)?,
        "split" => split(text, arguments, false)?,
        "rsplit" => split(text, arguments, true)?,
        "splitlines" => lines(text, arguments)?,
        "partition" | "rpartition" => parted(text, &arguments.one_text()?, name == "rpartition")?,
        "removeprefix" => {
            let prefix = arguments.one_text()?;
            Value::from(text.strip_prefix(&prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = arguments.one_text()?;
            Value::from(text.strip_suffix(&suffix).unwrap_or(text))
        }
        "startswith" | "endswith" => begins_or_ends(text, name == "endswith", arguments)?,
        "find" | "rfind" | "index" | "rindex" => place(text, name, arguments)?,
        "count" => {
            let [what, start, end] = arguments.at_most(["sub", "start", "end"])?;
            let what = arguments.text(what.as_ref())?;
            let part = within(text, start.as_ref(), end.as_ref())?;
            Value::from(part.map_or(0, |(_, part)| part.matches(&what).count()))
        }
        "replace" => replaced(state, text, arguments)?,
        "join" => joined(state, text, arguments)?,
        "zfill" | "ljust" | "rjust" | "center" => filled(state, text, name, arguments)?,
        "expandtabs" => expanded(state, text, arguments)?,
        _ => {
            let Some(found) = of_characters(text, name) else {
                return Ok(None);
            };
            arguments.none()?;
            found
        }
    }))
}

/// Methods without arguments: letters, and what kind of letters there are.
fn of_characters(text: &str, name: &str) -> Option<Value> {
    let all = |test: &dyn Fn(char) -> bool| Value::from(!text.is_empty() && text.chars().all(test));
    Some(match name {
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "casefold" => Value::from(text.to_uppercase().to_lowercase()),
        "capitalize" => {
            let mut characters = text.chars();
            let first = characters.next().map(char::to_uppercase);
            let first: String = first.into_iter().flatten().collect();
            Value::from(first + &characters.as_str().to_lowercase())
        }
        "swapcase" => text
            .chars()
            .map(|character| match character.is_uppercase() {
                true => character.to_lowercase().to_string(),
                false => character.to_uppercase().to_string(),
            })
            .collect::<String>()
            .into(),
        "title" => Value::from(titled(text)),
        "istitle" => {
            let has_letters = text.chars().any(is_cased);
            Value::from(has_letters && titled(text) == text)
        }
        "isspace" => all(&is_space),
        "isdigit" => all(&|character| is_decimal(character) || is_raised(character)),
        "isdecimal" => all(&is_decimal),
        "isnumeric" => all(&char::is_numeric),
        "isprintable" => Value::from(
            !text
                .chars()
                .any(|c| c.is_control() || is_space(c) && c != ' '),
        ),
        "isidentifier" => {
            let first = text.chars().next();
            let begins = first.is_some_and(|first| first == '_' || first.is_alphabetic());
            Value::from(begins && text.chars().all(|c| c == '_' || c.is_alphanumeric()))
        }
        _ => return None,
    })
}

/// White space as Python has it: Unicode's, and the four separators of ASCII.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

fn is_decimal(character: char) -> bool {
    static DECIMAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{Nd}$").ok());
    let digit = |regex: &Regex| regex.is_match(character.encode_utf8(&mut [0; 4]));
    character.is_ascii_digit() || !character.is_ascii() && DECIMAL.as_ref().is_some_and(digit)
}

/// Digits above and below the line, which Python counts as digits too.
fn is_raised(character: char) -> bool {
    matches!(character, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉')
}

fn is_cased(character: char) -> bool {
    character.is_uppercase() || character.is_lowercase()
}

/// A capital after whatever is no letter, else small ones.
fn titled(text: &str) -> String {
    let mut after_letter = false;
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        if after_letter {
            result.extend(character.to_lowercase());
        } else {
            result.extend(character.to_uppercase());
        }
        after_letter = is_cased(character);
    }
    result
}

/// A text without these characters, or white space, at its ends.
pub(super) fn trimmed<'t>(text: &'t str, characters: Option<&str>) -> &'t str {
    match characters {
        Some(list) => text.trim_matches(|character| list.contains(character)),
        None => text.trim_matches(is_space),
    }
}

fn stripped(text: &str, name: &str, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let [characters] = arguments.at_most(["chars"])?;
    let characters = match &characters {
        Some(_) => Some(arguments.text(characters.as_ref())?),
        None => None,
    };
    let wanted = |character: char| match &characters {
        Some(list) => list.contains(character),
        None => is_space(character),
    };
    Ok(Value::from(match name {
        "lstrip" => text.trim_start_matches(wanted),
        "rstrip" => text.trim_end_matches(wanted),
        _ => trimmed(text, characters.as_deref()),
    }))
}

fn split(text: &str, arguments: &Arguments<'_>, from_right: bool) -> Result<Value, Error> {
    let [separator, most] = arguments.at_most(["sep", "maxsplit"])?;
    let most = most.as_ref().map(number).transpose()?;
    let most = usize::try_from(most.unwrap_or(-1)).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = match &separator {
        None if from_right => words_from_right(text, most),
        None => words(text, most),
        Some(_) => {
            let separator = arguments.text(separator.as_ref())?;
            if separator.is_empty() {
                return Err(fault("split has an empty separator"));
            }
            if from_right {
                text.rsplitn(most.saturating_add(1), &separator).collect()
            } else {
                text.splitn(most.saturating_add(1), &separator).collect()
            }
        }
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words between white space; the last one is the rest, with its white space but for that before it.
fn words(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if parts.len() < most {
            rest.find(is_space)
        } else {
            None
        };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        parts.push(word);
        rest = after.trim_start_matches(is_space);
    }
    parts
}

/// As [`words`], from the right: the last word comes first.
fn words_from_right(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let found = if parts.len() < most {
            rest.char_indices()
                .rfind(|(_, character)| is_space(*character))
        } else {
            None
        };
        let start = found.map_or(0, |(at, character)| at + character.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts
}

fn lines(text: &str, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let [keep] = arguments.at_most(["keepends"])?;
    let keep = keep.is_some_and(|keep| keep.is_true());
    let ends = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}',
        '\u{2029}',
    ];
    let mut lines: Vec<&str> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, length) = match rest.find(ends) {
            None => (rest.len(), rest.len()),
            Some(at) if rest[at..].starts_with("\r\n") => (at, at + 2),
            Some(at) => (at, at + rest[at..].chars().next().map_or(0, char::len_utf8)),
        };
        lines.push(&rest[..if keep { length } else { line }]);
        rest = &rest[length..];
    }
    Ok(lines.into_iter().map(Value::from).collect())
}

fn parted(text: &str, separator: &str, from_right: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(fault("partition has an empty separator"));
    }
    let found = if from_right {
        text.rsplit_once(separator)
    } else {
        text.split_once(separator)
    };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// The part of a text from the character `start` to the character `end`, and how many characters stand before it. `None` where
/// the start is beyond the text or behind the end: Python finds nothing there, not even an empty text.
fn within<'t>(
    text: &'t str,
    start: Option<&Value>,
    end: Option<&Value>,
) -> Result<Option<(usize, &'t str)>, Error> {
    let (start, end) = range(start, end, text.chars().count())?;
    if start > end {
        return Ok(None);
    }
    let at = |place: usize| {
        text.char_indices()
            .nth(place)
            .map_or(text.len(), |(at, _)| at)
    };
    Ok(Some((start, &text[at(start)..at(end)])))
}

fn begins_or_ends(text: &str, ends: bool, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let [wanted, start, end] = arguments.at_most(["prefix", "start", "end"])?;
    let wanted = arguments.needed(wanted.as_ref())?;
    let part = within(text, start.as_ref(), end.as_ref())?;
    let holds = |wanted: &Value| -> Result<bool, Error> {
        let wanted = arguments.text(Some(wanted))?;
        Ok(part.is_some_and(|(_, part)| match ends {
            true => part.ends_with(&wanted),
            false => part.starts_with(&wanted),
        }))
    };
    if wanted.as_str().is_some() {
        return holds(wanted).map(Value::from);
    }
    for wanted in wanted.try_iter()? {
        if holds(&wanted)? {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn place(text: &str, name: &str, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let [what, start, end] = arguments.at_most(["sub", "start", "end"])?;
    let what = arguments.text(what.as_ref())?;
    let part = within(text, start.as_ref(), end.as_ref())?;
    let found = part.and_then(|(before, part)| {
        let at = match name.starts_with('r') {
            true => part.rfind(&what),
            false => part.find(&what),
        };
        at.map(|at| before + part[..at].chars().count())
    });
    match found {
        Some(place) => Ok(Value::from(place)),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(fault(format!("{what:?} is not in the text"))),
    }
}

fn replaced(state: &State<'_, '_>, text: &str, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let [old, new, count] = arguments.at_most(["old", "new", "count"])?;
    let (old, new) = (arguments.text(old.as_ref())?, arguments.text(new.as_ref())?);
    let count = count.as_ref().map(number).transpose()?.unwrap_or(-1);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let most = (text.len() / old.len().max(1) + 1).min(count);
    pay(
        state,
        most.saturating_mul(new.len().saturating_sub(old.len())),
    )?;
    Ok(Value::from(text.replacen(&old, &new, count)))
}

fn joined(state: &State<'_, '_>, text: &str, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let [items] = arguments.at_most(["iterable"])?;
    let mut result = String::new();
    for (index, item) in arguments.needed(items.as_ref())?.try_iter()?.enumerate() {
        pay(state, text.len() + item.as_str().map_or(0, str::len))?;
        if index > 0 {
            result.push_str(text);
        }
        let item = item.as_str().ok_or_else(|| {
            fault(format!(
                "join has an item that is a {}, expected texts",
                item.kind()
            ))
        })?;
        result.push_str(item);
    }
    Ok(Value::from(result))
}

fn filled(
    state: &State<'_, '_>,
    text: &str,
    name: &str,
    arguments: &Arguments<'_>,
) -> Result<Value, Error> {
    let [width, fill] = arguments.at_most(["width", "fillchar"])?;
    let width = number(arguments.needed(width.as_ref())?)?;
    let fill = match &fill {
        Some(_) => arguments.text(fill.as_ref())?,
        None if name == "zfill" => "0".to_owned(),
        None => " ".to_owned(),
    };
    if fill.chars().count() != 1 {
        return Err(fault(format!(
            "{name} fills with {fill:?}, expected one character"
        )));
    }
    let length = text.chars().count();
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(length);
    pay(state, missing.saturating_mul(fill.len()))?;
    let left = match name {
        "ljust" => 0,
        // Python puts the odd one on the left where the width is odd.
        "center" => missing / 2 + (missing & width as usize & 1),
        _ => missing,
    };
    let (sign, digits) = match text.chars().next() {
        Some('+' | '-') if name == "zfill" => text.split_at(1),
        _ => ("", text),
    };
    let right = fill.repeat(missing - left);
    Ok(Value::from(format!(
        "{sign}{}{digits}{right}",
        fill.repeat(left)
    )))
}

fn expanded(state: &State<'_, '_>, text: &str, arguments: &Arguments<'_>) -> Result<Value, Error> {
    let [size] = arguments.at_most(["tabsize"])?;
    let size = size.as_ref().map(number).transpose()?.unwrap_or(8);
    let size = usize::try_from(size).unwrap_or(0);
    let mut result = String::with_capacity(text.len());
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' if size == 0 => {}
            '\t' => {
                let spaces = size - column % size;
                pay(state, spaces)?;
                result.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\n' | '\r' => {
                result.push(character);
                column = 0;
            }
            other => {
                result.push(other);
                column += 1;
            }
        }
    }
    Ok(Value::from(result))
}
