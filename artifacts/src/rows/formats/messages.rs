//! `{"messages": [{"role": …, "content": …}, …], "tools": […]}`: a conversation, as OpenAI and Hugging Face write it.
//!
//! A field that changes what is said or learnt is never passed over: what nothing would act on is refused. A field that is null
//! or empty is one that is not there: clients write all that an answer could have.

use crate::rows::content::{ASSISTANT, Conversation, Message, RowContent, TOOL_CALLS};
use crate::rows::fault::{FaultClass, Problem};
use crate::rows::json::{Json, Object, UniqueKeys, reason};
use crate::rows::quoted::shortened;
use crate::rows::record::{Record, text};
use crate::rows::row_format::RowFormat;

/// The roles of conversations.
const ROLES: [&str; 5] = ["system", "developer", "user", ASSISTANT, "tool"];

pub(super) fn parse(record: &Record<'_>) -> Result<RowContent, Problem> {
    let messages = list(record, "messages", RowFormat::Messages)?;
    check_assistant(&messages, record.name_of("messages"))?;
    Ok(RowContent::Messages(Conversation {
        messages,
        tools: tools(record)?,
    }))
}

/// The messages of a column, one or more.
pub(super) fn list(
    record: &Record<'_>,
    column: &'static str,
    format: RowFormat,
) -> Result<Vec<Message>, Problem> {
    let missing = FaultClass::MissingMessagesList;
    let list = record
        .list(column, "objects")
        .unwrap_or_else(|| Err(record.absent(column, format, missing)))?;
    let name = record.name_of(column);
    if list.is_empty() {
        return Err(Problem::new(
            missing,
            format!("`{name}` is empty, expected at least one message"),
        ));
    }
    list.iter()
        .enumerate()
        .map(|(index, value)| message(&format!("{name}[{index}]"), value))
        .collect()
}

/// That somebody says what is to be learnt.
pub(super) fn check_assistant(messages: &[Message], name: &str) -> Result<(), Problem> {
    if messages.iter().any(Message::is_assistant) {
        return Ok(());
    }
    Err(Problem::new(
        FaultClass::ExampleMissingAssistantMessage,
        format!("`{name}` has no message of the assistant, expected at least one to learn from"),
    ))
}

fn message(name: &str, value: &Json) -> Result<Message, Problem> {
    let fields = value.as_object().ok_or_else(|| {
        let kind = value.kind();
        Problem::new(
            FaultClass::DataType,
            format!("`{name}` is {kind}, expected an object with `role` and `content`"),
        )
    })?;
    let role = role(name, fields)?;
    let mut message = Message {
        content: None,
        parts: Vec::new(),
        fields: Object::new(),
        trained: weight(name, fields, role == ASSISTANT)?,
        role,
    };
    for (key, value) in fields.iter().filter(|(_, value)| !value.says_nothing()) {
        let at = format!("`{name}.{key}`");
        match key.as_str() {
            "role" | "content" | "weight" => {}
            "name" | "tool_call_id" | "reasoning_content" => {
                let value = Json::Text(text(value, &at)?);
                message.fields.insert(key.clone(), value);
            }
            TOOL_CALLS if message.is_assistant() => {
                let calls = Json::List(tool_calls(name, value)?);
                message.fields.insert(key.clone(), calls);
            }
            _ => return Err(unrecognized(name, key, &message.role)),
        }
    }
    let calls = message.fields.contains_key(TOOL_CALLS);
    if let Some(Json::List(list)) = fields.get("content")
        && !(list.is_empty() && calls)
    {
        message.parts = parts(name, list)?;
        message.content = Some(message.parts.concat());
    } else {
        message.content = content(name, fields, calls)?;
    }
    Ok(message)
}

fn unrecognized(name: &str, key: &str, role: &str) -> Problem {
    let cure = match key {
        TOOL_CALLS => {
            format!("which a message of {role} cannot have: it is the assistant who calls")
        }
        "function_call" => "which nothing reads: write it as `tool_calls`".to_owned(),
        _ => "which nothing reads: remove it".to_owned(),
    };
    Problem::new(
        FaultClass::MessageUnrecognizedKey,
        format!(
            "`{name}` has the field {}, {cure}; expected `role`, `content`, `name`, `weight`, `tool_calls`, `tool_call_id` \
             or `reasoning_content`",
            shortened(key)
        ),
    )
}

fn role(name: &str, fields: &Object) -> Result<String, Problem> {
    let value = fields.get("role").ok_or_else(|| {
        Problem::new(
            FaultClass::MessageMissingKey,
            format!("`{name}` has no `role`, expected {}", ROLES.join(", ")),
        )
    })?;
    let role = text(value, &format!("`{name}.role`"))?;
    if ROLES.contains(&role.as_str()) {
        return Ok(role);
    }
    Err(Problem::new(
        FaultClass::UnrecognizedRole,
        format!(
            "`{name}.role` is {}, expected {}",
            shortened(&role),
            ROLES.join(", ")
        ),
    ))
}

/// What was said. Only a message that calls tools may say nothing.
fn content(name: &str, fields: &Object, calls: bool) -> Result<Option<String>, Problem> {
    let missing = |class, what: &str| {
        Err(Problem::new(
            class,
            format!("`{name}{what}, expected text; only a message with `tool_calls` may lack it"),
        ))
    };
    match fields.get("content") {
        None | Some(Json::Null | Json::List(_)) if calls => Ok(None),
        None => missing(FaultClass::MessageMissingKey, "` has no `content`"),
        Some(Json::Text(text)) => Ok(Some(text.clone())),
        Some(other) => missing(
            FaultClass::MissingContent,
            &format!(".content` is {}", other.kind()),
        ),
    }
}

/// The texts of a content that is a list of parts, `[{"type": "text", "text": …}, …]`.
fn parts(name: &str, list: &[Json]) -> Result<Vec<String>, Problem> {
    if list.is_empty() {
        return Err(Problem::new(
            FaultClass::MissingContent,
            format!("`{name}.content` is an empty list, expected text or parts of type `text`"),
        ));
    }
    let part = |(index, part): (usize, &Json)| {
        let at = format!("`{name}.content[{index}]`");
        let wrong = |what: String| {
            Problem::new(
                FaultClass::DataType,
                format!(
                    "{at} {what}, expected {{\"type\": \"text\", \"text\": …}}: models are trained on text alone"
                ),
            )
        };
        let fields = part
            .as_object()
            .ok_or_else(|| wrong(format!("is {}", part.kind())))?;
        let given = |key: &str| fields.get(key).filter(|value| **value != Json::Null);
        let says = |key: &str| given(key).is_some_and(|value| !value.says_nothing());
        match given("type").and_then(Json::as_text) {
            Some("text") => {}
            Some(other) => return Err(wrong(format!("is of type {}", shortened(other)))),
            None => return Err(wrong("has no `type`".to_owned())),
        }
        let known = |key: &str| matches!(key, "type" | "text");
        if let Some(key) = fields.keys().find(|key| !known(key) && says(key)) {
            return Err(wrong(format!("has the field {}", shortened(key))));
        }
        match given("text") {
            Some(Json::Text(text)) => Ok(text.clone()),
            Some(other) => Err(wrong(format!("has a `text` that is {}", other.kind()))),
            None => Err(wrong("has no `text`".to_owned())),
        }
    };
    list.iter().enumerate().map(part).collect()
}

/// Whether the message may carry loss.
pub(super) fn weight(name: &str, fields: &Object, assistant: bool) -> Result<bool, Problem> {
    let invalid = |why: String| Err(Problem::new(FaultClass::InvalidWeight, why));
    let value = match fields.get("weight") {
        None | Some(Json::Null) => return Ok(true),
        Some(value) => value,
    };
    if !assistant {
        return invalid(format!(
            "`{name}.weight` is set, which only a message of the assistant can have: remove it"
        ));
    }
    match value {
        Json::Number(number) if number.as_f64() == Some(0.0) => Ok(false),
        Json::Number(number) if number.as_f64() == Some(1.0) => Ok(true),
        other => invalid(format!(
            "`{name}.weight` is {}, expected 0 or 1",
            shortened(&other.to_text())
        )),
    }
}

/// The calls of a message, with arguments in the form that the row gives them, an object or one as JSON in a text: templates
/// print the two differently.
fn tool_calls(name: &str, value: &Json) -> Result<Vec<Json>, Problem> {
    let invalid = |what: String| Problem::new(FaultClass::InvalidToolCalls, what);
    let Json::List(list) = value else {
        return Err(invalid(format!(
            "`{name}.tool_calls` is {}, expected a list of calls",
            value.kind()
        )));
    };
    list.iter()
        .enumerate()
        .map(|(index, call)| {
            tool_call(&format!("{name}.tool_calls[{index}]"), call).map_err(invalid)
        })
        .collect()
}

/// A call, without the fields of it that are null: those are absent.
pub(super) fn tool_call(at: &str, call: &Json) -> Result<Json, String> {
    let mut call = call.clone();
    if let Json::Object(fields) = &mut call {
        fields.retain(|_, value| *value != Json::Null);
    }
    let function = match &mut call {
        Json::Object(fields) => fields.get_mut("function"),
        _ => None,
    };
    let Some(Json::Object(function)) = function else {
        return Err(format!(
            "`{at}` has no object `function`, expected {{\"type\": \"function\", \"function\": {{\"name\": …, \
             \"arguments\": …}}}}"
        ));
    };
    function.retain(|_, value| *value != Json::Null);
    if function
        .get("name")
        .and_then(Json::as_text)
        .is_none_or(str::is_empty)
    {
        return Err(format!(
            "`{at}.function.name` is absent or no text, expected the function's name"
        ));
    }
    let Some(arguments) = function.get("arguments") else {
        return Err(format!(
            "`{at}.function.arguments` is absent, expected an object"
        ));
    };
    let what = match arguments {
        Json::Object(_) => return Ok(call),
        Json::Text(text) => match serde_json::from_str(text) {
            Ok(UniqueKeys(Json::Object(_))) => return Ok(call),
            Ok(UniqueKeys(other)) => format!("text that holds {}", other.kind()),
            Err(error) if error.is_data() => format!("JSON in which {}", reason(&error)),
            Err(error) => format!("text and no JSON ({})", reason(&error)),
        },
        other => other.kind().to_owned(),
    };
    Err(format!(
        "`{at}.function.arguments` is {what}, expected an object, or one as JSON in a text"
    ))
}

/// The descriptions of functions beside a conversation.
pub(super) fn tools(record: &Record<'_>) -> Result<Vec<Json>, Problem> {
    let name = record.name_of("tools");
    let invalid = |what: String| Problem::new(FaultClass::InvalidTools, what);
    let Some(list) = record.list("tools", "objects") else {
        return Ok(Vec::new());
    };
    let list = list.map_err(|problem| invalid(problem.message))?;
    for (index, tool) in list.iter().enumerate() {
        let function = tool.as_object().and_then(|tool| tool.get("function"));
        if !function.is_some_and(is_function) {
            return Err(invalid(format!(
                "`{name}[{index}]` is no description of a function, expected {{\"type\": \"function\", \"function\": \
                 {{\"name\": …, \"parameters\": …}}}}"
            )));
        }
    }
    Ok(list)
}

/// Whether it describes a function: it has a name.
pub(super) fn is_function(value: &Json) -> bool {
    let name = value.as_object().and_then(|function| function.get("name"));
    name.and_then(Json::as_text)
        .is_some_and(|name| !name.is_empty())
}
