//! JSON inside other text.

use finetune_artifacts::rows::json::Json;

use super::Call;

/// The JSON value at the beginning of a text, white space before it passed over, and where it ends.
pub(super) fn first(text: &str) -> Option<(Json, usize)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Json>();
    let value = values.next()?.ok()?;
    Some((value, values.byte_offset()))
}

/// The call that an object describes: its `name`, and its arguments under one of `keys`, an object or one as JSON in a text.
pub(super) fn call(value: &Json, keys: &[&str]) -> Option<Call> {
    let fields = value.as_object()?;
    let name = fields
        .get("name")?
        .as_text()
        .filter(|name| !name.is_empty())?;
    let arguments = keys.iter().find_map(|key| fields.get(*key));
    let arguments = match arguments? {
        Json::Text(text) => serde_json::from_str(text).ok()?,
        other => other.clone(),
    };
    arguments.as_object()?;
    Some(Call {
        name: name.to_owned(),
        arguments: arguments.to_text(),
    })
}

/// The calls of a list of objects, or of one; none where one of them is no call.
pub(super) fn calls(value: &Json) -> Option<Vec<Call>> {
    let keys = ["arguments", "parameters"];
    let calls: Vec<Call> = match value {
        Json::List(list) => list
            .iter()
            .map(|item| call(item, &keys))
            .collect::<Option<_>>()?,
        other => vec![call(other, &keys)?],
    };
    Some(calls).filter(|calls| !calls.is_empty())
}

/// How many bytes of white space a text begins with, the text `after` behind it included where it is there.
pub(super) fn skip(text: &str, after: &str) -> Option<usize> {
    let trimmed = text.trim_start();
    let spaces = text.len() - trimmed.len();
    trimmed.starts_with(after).then(|| spaces + after.len())
}
