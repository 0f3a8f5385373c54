//! The filter `tojson` as transformers defines it: Python's `json.dumps` with its arguments, and without escaping for HTML.

use std::fmt::Write as _;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, Value};

use super::fuel::{self, MOST_LEVELS};
use super::print::python_float;
use super::python::Arguments;

/// The widest indent; real templates take 2 or 4.
const WIDEST_INDENT: usize = 64;

/// `value | tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that minijinja calls"
)]
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: Value,
    given: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let given = given.into_values();
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sorted] = Arguments::new("tojson", &given)?.at_most(names)?;
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let indent = indent.as_ref().map(as_indent).transpose()?;
    let (item, key) = match &separators {
        Some(pair) => as_separators(pair)?,
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let layout = Layout {
        ascii: is_true(ascii),
        sorted: is_true(sorted),
        indent,
        item,
        key,
    };
    // A text grows sixfold at most; the engine charges for the rest once it is there.
    fuel::pay(state, fuel::weight(state, &value)?)?;
    let mut text = String::new();
    layout.write(&value, 0, &mut text)?;
    Ok(Value::from(text))
}

/// The value as `json.dumps(value, ensure_ascii=False)` writes it.
pub(super) fn dumps(value: &Value) -> Result<String, Error> {
    let layout = Layout {
        ascii: false,
        sorted: false,
        indent: None,
        item: ", ".to_owned(),
        key: ": ".to_owned(),
    };
    let mut text = String::new();
    layout.write(value, 0, &mut text)?;
    Ok(text)
}

fn fault(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// A number of spaces, or the text itself.
fn as_indent(value: &Value) -> Result<String, Error> {
    let indent = match value.as_str() {
        Some(text) => text.to_owned(),
        None => {
            let width = match value.kind() {
                ValueKind::Bool => i64::from(value.is_true()),
                _ => i64::try_from(value.clone())?,
            };
            " ".repeat(usize::try_from(width).unwrap_or(0).min(WIDEST_INDENT + 1))
        }
    };
    if indent.len() > WIDEST_INDENT {
        return Err(fault(format!(
            "tojson has an indent of more than {WIDEST_INDENT}"
        )));
    }
    Ok(indent)
}

fn as_separators(pair: &Value) -> Result<(String, String), Error> {
    let texts: Vec<Value> = pair.try_iter()?.collect();
    match texts.as_slice() {
        [item, key] => match (item.as_str(), key.as_str()) {
            (Some(item), Some(key)) => Ok((item.to_owned(), key.to_owned())),
            _ => Err(fault("tojson has separators that are no texts")),
        },
        _ => Err(fault(format!(
            "tojson has {} separators, expected 2",
            texts.len()
        ))),
    }
}

/// How values are laid out.
struct Layout {
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Layout {
    fn write(&self, value: &Value, level: usize, text: &mut String) -> Result<(), Error> {
        if level > MOST_LEVELS {
            return Err(fault(format!("tojson has more than {MOST_LEVELS} levels")));
        }
        match value.kind() {
            ValueKind::Undefined => return Err(fault("tojson has a value that is undefined")),
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => text.push_str(&value.to_string()),
            ValueKind::Number => {
                let number = f64::try_from(value.clone())?;
                text.push_str(&match number {
                    _ if number.is_nan() => "NaN".to_owned(),
                    f64::INFINITY => "Infinity".to_owned(),
                    f64::NEG_INFINITY => "-Infinity".to_owned(),
                    _ => python_float(number),
                });
            }
            ValueKind::String => self.quote(value.as_str().unwrap_or_default(), text),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(&items, ('[', ']'), level, text, |item, text| {
                    self.write(item, level + 1, text)
                })?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()? {
                    pairs.push((key_text(&key)?, value.get_item(&key)?));
                }
                if self.sorted {
                    pairs.sort_by(|(left, _), (right, _)| left.cmp(right));
                }
                self.list(&pairs, ('{', '}'), level, text, |(key, value), text| {
                    self.quote(key, text);
                    text.push_str(&self.key);
                    self.write(value, level + 1, text)
                })?;
            }
            other => return Err(fault(format!("tojson has a value that is a {other}"))),
        }
        Ok(())
    }

    fn list<T>(
        &self,
        items: &[T],
        brackets: (char, char),
        level: usize,
        text: &mut String,
        write: impl Fn(&T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        text.push(brackets.0);
        for (index, item) in items.iter().enumerate() {
            text.push_str(if index == 0 { "" } else { &self.item });
            self.new_line(level + 1, text);
            write(item, text)?;
        }
        if !items.is_empty() {
            self.new_line(level, text);
        }
        text.push(brackets.1);
        Ok(())
    }

    fn new_line(&self, level: usize, text: &mut String) {
        if let Some(indent) = &self.indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(indent.as_str(), level));
        }
    }

    fn quote(&self, value: &str, text: &mut String) {
        text.push('"');
        let escape = |unit: u16, text: &mut String| {
            // Writing to a text cannot fail.
            let _ = write!(text, "\\u{unit:04x}");
        };
        for character in value.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                '\0'..='\u{1f}' => escape(character as u16, text),
                _ if self.ascii && !(' '..='~').contains(&character) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        escape(*unit, text);
                    }
                }
                _ => text.push(character),
            }
        }
        text.push('"');
    }
}

/// The text that Python makes of a key.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number if key.is_integer() => Ok(key.to_string()),
        ValueKind::Number => Ok(python_float(f64::try_from(key.clone())?)),
        other => Err(fault(format!("tojson has a key that is a {other}"))),
    }
}
