//! `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}`, read as messages. Calls of functions are
//! turns of their own, as LLaMA-Factory writes them.

use super::messages::{check_assistant, is_function, tool_call, tools, weight};
use crate::rows::content::{ASSISTANT, Conversation, Message, RowContent, TOOL_CALLS};
use crate::rows::fault::{FaultClass, Problem};
use crate::rows::json::{Json, Object, UniqueKeys, reason};
use crate::rows::quoted::shortened;
use crate::rows::record::{Record, text};
use crate::rows::row_format::RowFormat;

pub(super) fn parse(record: &Record<'_>) -> Result<RowContent, Problem> {
    let column = "conversations";
    let missing = FaultClass::MissingMessagesList;
    let list = record
        .list(column, "objects")
        .unwrap_or_else(|| Err(record.absent(column, RowFormat::ShareGPT, missing)))?;
    let name = record.name_of(column);
    if list.is_empty() {
        return Err(Problem::new(
            missing,
            format!("`{name}` is empty, expected at least one turn"),
        ));
    }
    let mut messages = Vec::with_capacity(list.len() + 1);
    let system = record.optional_text("system")?;
    if !system.is_empty() {
        messages.push(Message::new("system", system));
    }
    for (index, value) in list.iter().enumerate() {
        messages.push(turn(&format!("{name}[{index}]"), value)?);
    }
    check_assistant(&messages, name)?;
    Ok(RowContent::Messages(Conversation {
        messages,
        tools: described(record)?,
    }))
}

/// The descriptions of functions. Those that stand there without the frame that messages have get it.
fn described(record: &Record<'_>) -> Result<Vec<Json>, Problem> {
    let list = record.list("tools", "objects").transpose();
    let bare = |list: &[Json]| !list.is_empty() && list.iter().all(is_function);
    match list {
        Ok(Some(list)) if bare(&list) => Ok(list.into_iter().map(framed).collect()),
        _ => tools(record),
    }
}

/// `{"type": "function", "function": …}`.
fn framed(function: Json) -> Json {
    Json::Object(Object::from([
        ("type".to_owned(), Json::Text("function".to_owned())),
        ("function".to_owned(), function),
    ]))
}

fn turn(name: &str, value: &Json) -> Result<Message, Problem> {
    let fields = value.as_object().ok_or_else(|| {
        let kind = value.kind();
        Problem::new(
            FaultClass::DataType,
            format!("`{name}` is {kind}, expected an object"),
        )
    })?;
    let field = |key: &str| {
        let cure = if fields.contains_key("role") {
            ": where turns have `role` and `content`, set dataset.columns: { messages: conversations }"
        } else {
            ""
        };
        let value = fields.get(key).ok_or_else(|| {
            Problem::new(
                FaultClass::MessageMissingKey,
                format!("`{name}` has no `{key}`, expected `from` and `value`{cure}"),
            )
        })?;
        text(value, &format!("`{name}.{key}`"))
    };
    let from = field("from")?;
    let known = |key: &str| matches!(key, "from" | "value" | "weight");
    let unknown = |(key, value): &(&String, &Json)| !known(key) && !value.says_nothing();
    if let Some((key, _)) = fields.iter().find(unknown) {
        return Err(Problem::new(
            FaultClass::MessageUnrecognizedKey,
            format!(
                "`{name}` has the field {}, expected `from`, `value` and `weight`: remove it",
                shortened(key)
            ),
        ));
    }
    if from == "function_call" {
        let mut message = Message::new(ASSISTANT, "");
        message.content = None;
        let calls = calls(name, fields.get("value").unwrap_or(&Json::Null))?;
        message
            .fields
            .insert(TOOL_CALLS.to_owned(), Json::List(calls));
        message.trained = weight(name, fields, true)?;
        return Ok(message);
    }
    let role = role(&from).ok_or_else(|| {
        Problem::new(
            FaultClass::UnrecognizedRole,
            format!(
                "`{name}.from` is {}, expected system, human or user, gpt or assistant, function_call, or tool or observation",
                shortened(&from)
            ),
        )
    })?;
    let mut message = Message::new(role, field("value")?);
    message.trained = weight(name, fields, message.is_assistant())?;
    Ok(message)
}

/// The calls of a turn, `{"name": …, "arguments": …}` or a list of them, mostly as JSON in a text.
fn calls(name: &str, value: &Json) -> Result<Vec<Json>, Problem> {
    let invalid = |what: String| Problem::new(FaultClass::InvalidToolCalls, what);
    let parsed = match value.as_text().map(serde_json::from_str) {
        Some(Ok(UniqueKeys(parsed))) => parsed,
        Some(Err(error)) if error.is_data() => {
            return Err(invalid(format!(
                "`{name}.value` is JSON in which {}: keep one of them",
                reason(&error)
            )));
        }
        Some(Err(_)) | None => value.clone(),
    };
    let functions = match parsed {
        Json::List(list) if !list.is_empty() => list,
        Json::Object(function) => vec![Json::Object(function)],
        other => {
            return Err(invalid(format!(
                "`{name}.value` is {}, expected a call, {{\"name\": …, \"arguments\": …}}, as JSON in a text",
                other.kind()
            )));
        }
    };
    functions
        .into_iter()
        .enumerate()
        .map(|(index, function)| {
            let at = format!("{name}.value[{index}]");
            tool_call(&at, &framed(function)).map_err(invalid)
        })
        .collect()
}

/// The role that a name stands for in the data sets that have this form.
fn role(from: &str) -> Option<&'static str> {
    match from {
        "system" => Some("system"),
        "human" | "user" => Some("user"),
        "gpt" | "chatgpt" | "assistant" | "model" => Some("assistant"),
        "tool" | "observation" => Some("tool"),
        _ => None,
    }
}
