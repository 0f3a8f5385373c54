//! Python's methods on texts, lists and dictionaries, which templates call, as Python has them. `pycompat` has some of them;
//! what it lacks or does otherwise is here.
//!
//! Pure. Methods that change a value are not there: transformers forbids them.

mod arguments;
mod text;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

pub(super) use arguments::Arguments;

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
        ValueKind::Seq => list(value, name, &arguments),
        ValueKind::Map if name == "copy" => arguments.none().map(|()| Some(value.clone())),
        _ => Ok(None),
    };
    match found? {
        Some(found) => Ok(found),
        None => pycompat::unknown_method_callback(state, value, name, given),
    }
}

/// The filter `trim`: white space, or the characters that are named.
pub(super) fn trim(value: &str, characters: Option<&str>) -> String {
    text::trimmed(value, characters).to_owned()
}

fn list(value: &Value, name: &str, arguments: &Arguments<'_>) -> Result<Option<Value>, Error> {
    match name {
        "copy" => {
            arguments.none()?;
            Ok(Some(value.clone()))
        }
        "index" => {
            let [wanted, start, end] = arguments.at_most(["value", "start", "stop"])?;
            let wanted = arguments.needed(wanted.as_ref())?;
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
