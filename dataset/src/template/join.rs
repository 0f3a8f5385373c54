//! The filter `join` as Jinja has it: items become texts as Python prints them. Each is paid for before it is joined, since a list may
//! hold one text any number of times.

use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Error, State, Value};

use super::fuel::pay;
use super::print::python_str;
use super::python::Arguments;

/// `value | join(d='', attribute=none)`.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that minijinja calls"
)]
pub(super) fn join(
    state: &State<'_, '_>,
    value: Value,
    given: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let given = given.into_values();
    let [between, attribute] = Arguments::new("join", &given)?.at_most(["d", "attribute"])?;
    let between = match &between {
        Some(between) => python_str(state, between)?,
        None => String::new(),
    };
    let mut text = String::new();
    let mut first = true;
    let mut add = |item: &str| {
        pay(state, between.len() + item.len())?;
        if !std::mem::replace(&mut first, false) {
            text.push_str(&between);
        }
        text.push_str(item);
        Ok::<_, Error>(())
    };
    if let Some(value) = value.as_str() {
        for character in value.chars() {
            add(character.encode_utf8(&mut [0; 4]))?;
        }
        return Ok(Value::from(text));
    }
    for item in value.try_iter()? {
        let item = match &attribute {
            Some(path) => at(&item, &python_str(state, path)?),
            None => item,
        };
        match item.as_str() {
            Some(item) => add(item)?,
            None => add(&python_str(state, &item)?)?,
        }
    }
    Ok(Value::from(text))
}

/// What stands under a dotted path; undefined where nothing does.
fn at(item: &Value, path: &str) -> Value {
    let mut found = item.clone();
    for step in path.split('.') {
        if found.is_undefined() {
            break;
        }
        let step = match step.parse::<usize>() {
            Ok(place) => Value::from(place),
            Err(_) => Value::from(step),
        };
        found = found.get_item(&step).unwrap_or_default();
    }
    found
}
