//! `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}`, read as messages.

use super::RowFormat;
use super::messages::{check_assistant, tools, weight};
use crate::rows::content::{Conversation, Message, RowContent};
use crate::rows::fault::{FaultClass, Problem};
use crate::rows::json::Json;
use crate::rows::record::{Record, shortened, text};

pub(super) fn parse(record: &Record<'_>) -> Result<RowContent, Problem> {
    let column = "conversations";
    let missing = FaultClass::MissingMessagesList;
    let list = record
        .list(column)
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
        tools: tools(record)?,
    }))
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
        let value = fields.get(key).ok_or_else(|| {
            Problem::new(
                FaultClass::MessageMissingKey,
                format!("`{name}` has no `{key}`, expected `from` and `value`"),
            )
        })?;
        text(value, &format!("`{name}.{key}`"))
    };
    let known = |key: &str| matches!(key, "from" | "value" | "weight");
    if let Some(key) = fields.keys().find(|key| !known(key)) {
        return Err(Problem::new(
            FaultClass::MessageUnrecognizedKey,
            format!(
                "`{name}` has the field {}, expected `from`, `value` and `weight`: remove it",
                shortened(key)
            ),
        ));
    }
    let from = field("from")?;
    let role = role(&from).ok_or_else(|| {
        Problem::new(
            FaultClass::UnrecognizedRole,
            format!(
                "`{name}.from` is {}, expected system, human or user, gpt or assistant, or tool; calls of functions go \
                 into format Messages, as `tool_calls`",
                shortened(&from)
            ),
        )
    })?;
    let mut message = Message::new(role, field("value")?);
    message.trained = weight(name, fields, message.is_assistant())?;
    Ok(message)
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
