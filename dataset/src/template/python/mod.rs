//! Python's methods on texts, lists and dictionaries, which templates call, as Python has them. `pycompat` has some of them;
//! what it lacks or does otherwise is here.
//!
//! Pure. Methods that change a value are not there: transformers forbids them.

mod arguments;
mod text;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::fuel::{pay, weight};
use super::print::python_str;

pub(super) use arguments::Arguments;

/// Bytes of an item of a list.
const SLOT: usize = 32;

/// What minijinja calls for a method that it does not know.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    given: &[Value],
) -> Result<Value, Error> {
    let arguments = Arguments::new(name, given)?;
    let found = match value.kind() {
        ValueKind::String => {
            text::method(state, value.as_str().unwrap_or_default(), name, &arguments)
        }
        ValueKind::Seq => list(state, value, name, &arguments),
        ValueKind::Map if name == "copy" => arguments.none().map(|()| Some(value.clone())),
        _ => Ok(None),
    };
    match found? {
        Some(found) => Ok(found),
        None if name == "format" => {
            let text = value.as_str().unwrap_or_default();
            pay_for_fields(state, text, '{', given)?;
            pay(state, widths(text))?;
            pycompat::unknown_method_callback(state, value, name, given)
        }
        None => pycompat::unknown_method_callback(state, value, name, given),
    }
}

/// The filter `trim`: white space, or the characters that are named. As Jinja has it, what is no text becomes one first, and what
/// is undefined an empty one.
pub(super) fn trim(
    state: &State<'_, '_>,
    value: &Value,
    characters: Option<&str>,
) -> Result<String, Error> {
    let text = python_str(state, value)?;
    Ok(text::trimmed(&text, characters).to_owned())
}

/// The filter `format`: minijinja's, which charges for the width of fields and not for what stands in them.
pub(super) fn format(
    state: &mut State<'_, '_>,
    text: &Value,
    given: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let values = given.iter().map(|given| (**given).clone());
    let values: Vec<Value> = values.collect();
    pay_for_fields(state, text.as_str().unwrap_or_default(), '%', &values)?;
    minijinja::filters::format(state, text, given)
}

/// Charges for all values in each field: a field may name any of them.
fn pay_for_fields(
    state: &State<'_, '_>,
    text: &str,
    field: char,
    values: &[Value],
) -> Result<(), Error> {
    let mut bytes = 0_usize;
    for value in values {
        bytes = bytes.saturating_add(weight(state, value)?);
    }
    pay(state, bytes.saturating_mul(text.matches(field).count()))
}

/// The sum of the numbers in the fields of a text, which may be widths.
fn widths(text: &str) -> usize {
    let fields = text
        .split('{')
        .skip(1)
        .map(|after| after.split('}').next().unwrap_or_default());
    let numbers = fields
        .flat_map(|field| field.split(|character: char| !character.is_ascii_digit()))
        .filter(|digits| !digits.is_empty());
    let widths = numbers.map(|digits| digits.parse().unwrap_or(usize::MAX));
    widths.fold(0, usize::saturating_add)
}

fn list(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &Arguments<'_>,
) -> Result<Option<Value>, Error> {
    match name {
        "copy" => {
            arguments.none()?;
            Ok(Some(value.clone()))
        }
        "index" => {
            let [wanted, start, end] = arguments.at_most(["value", "start", "stop"])?;
            let wanted = arguments.needed(wanted.as_ref())?;
            pay(state, value.len().unwrap_or_default().saturating_mul(SLOT))?;
            let items: Vec<Value> = value.try_iter()?.collect();
            let (start, end) = arguments::range(start.as_ref(), end.as_ref(), items.len())?;
            let mut places = (start..end).filter(|place| items[*place] == *wanted);
            places
                .next()
                .map(|place| Some(Value::from(place)))
                .ok_or_else(|| fault(format!("{wanted:?} is not in the list")))
        }
        _ => Ok(None),
    }
}

fn fault(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}
