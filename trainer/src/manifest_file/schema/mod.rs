//! Holds a spec against the schema of the CustomResourceDefinition: types, required fields, names of values, and fields that it
//! does not know, which would otherwise be settings that silently do nothing. `bounds` holds it against the rest of the schema,
//! `validate` against what a schema cannot say.

use serde_json::{Map, Value};

use crate::validate::{Fault, cut};

pub(super) use bounds::out_of_bounds;

mod bounds;
mod range;
#[cfg(test)]
mod tests;

/// What is said of a field that the schema does not have.
pub(super) const UNKNOWN: &str = "is not a field of this version: remove it or mend its spelling";

/// The largest whole number up to which a float holds all of them.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// All faults of a spec. What the API server makes the same is made the same: fields that are null are absent, and `2.0` is a
/// whole number.
pub(super) fn conform_spec(spec: &mut Value) -> Vec<Fault> {
    let schema = finetune_crds::schema::fine_tune_job();
    let mut faults = Vec::new();
    conform(&schema["properties"]["spec"], spec, "spec", &mut faults);
    faults
}

fn conform(schema: &Value, value: &mut Value, path: &str, faults: &mut Vec<Fault>) {
    let fault = if schema["x-kubernetes-int-or-string"] == true {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        (!fits).then(|| format!("is {}, expected a whole number or text", shown(value)))
    } else {
        match (schema["type"].as_str(), &mut *value) {
            (Some("object"), Value::Object(fields)) => {
                conform_fields(schema, fields, path, faults);
                None
            }
            (Some("object"), other) => {
                Some(format!("is {}, expected fields below it", shown(other)))
            }
            (Some("array"), Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    conform(&schema["items"], item, &format!("{path}[{index}]"), faults);
                }
                None
            }
            (Some("array"), other) => Some(format!("is {}, expected a list", shown(other))),
            (Some("string"), Value::String(text)) => one_of(&schema["enum"], text),
            (Some("string"), other) => Some(no_text(other)),
            (Some("boolean"), other) => {
                (!other.is_boolean()).then(|| unquoted(other, "true or false"))
            }
            (Some("number"), other) => (!other.is_number()).then(|| unquoted(other, "a number")),
            (Some("integer"), other) => match whole(other) {
                Some(number) => {
                    *other = number;
                    None
                }
                None => Some(unquoted(other, "a whole number")),
            },
            _ => None,
        }
    };
    faults.extend(fault.map(|message| Fault::new(path, message)));
}

fn conform_fields(
    schema: &Value,
    fields: &mut Map<String, Value>,
    path: &str,
    faults: &mut Vec<Fault>,
) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    let others = &schema["additionalProperties"];
    for (key, value) in fields.iter_mut() {
        let path = format!("{path}.{key}");
        match schema["properties"].get(key) {
            Some(_) if value.is_null() => {}
            Some(known) => conform(known, value, &path, faults),
            None if others.is_object() => conform(others, value, &path, faults),
            None if schema["properties"].is_object() && others != true => {
                faults.push(Fault::new(&path, UNKNOWN));
            }
            None => {}
        }
    }
    fields.retain(|_, value| !value.is_null());
    let required = schema["required"].as_array().into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            faults.push(Fault::new(
                &format!("{path}.{name}"),
                format!("is absent, expected {}", kind(&schema["properties"][name])),
            ));
        }
    }
}

/// What a schema asks for, in words.
fn kind(schema: &Value) -> &'static str {
    match schema["type"].as_str() {
        Some("object") => "fields below it",
        Some("array") => "a list",
        Some("string") => "text",
        Some("boolean") => "true or false",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        _ => "a value",
    }
}

/// Why a text is none of those that the schema lists.
fn one_of(listed: &Value, text: &str) -> Option<String> {
    let listed: Vec<&str> = listed
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    (!listed.contains(&text))
        .then(|| format!("is `{}`, expected one of {}", cut(text), listed.join(", ")))
}

/// The number as a whole one, where it is one.
fn whole(value: &Value) -> Option<Value> {
    if value.is_i64() || value.is_u64() {
        return Some(value.clone());
    }
    let float = value.as_f64()?;
    (float.fract() == 0.0 && float.abs() <= EXACT).then(|| Value::from(float as i64))
}

/// Why a value is no text.
pub(super) fn no_text(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => {
            format!("is {}, expected text: put it into quotes", shown(value))
        }
        other => format!("is {}, expected text", shown(other)),
    }
}

/// Why a value is not what a field without quotes takes.
fn unquoted(value: &Value, expected: &str) -> String {
    let quoted = value
        .as_str()
        .and_then(|text| serde_json::from_str::<Value>(text).ok())
        .is_some_and(|inner| inner.is_number() || inner.is_boolean());
    let cure = if quoted { ": remove the quotes" } else { "" };
    format!("is {}, expected {expected}{cure}", shown(value))
}

/// A value as messages show it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the text `{}`", cut(text).escape_debug()),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
