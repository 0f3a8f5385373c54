//! Calls and tools whose words are known, with which a template is tried.

use finetune_artifacts::rows::json::Json;
use finetune_artifacts::rows::{Message, TOOL_CALLS};

use super::PROBE;

/// In which form a call has its arguments.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Arguments {
    /// As an object.
    Object,
    /// As an object written as JSON in a text.
    Text,
}

/// The argument whose value is the probe, as JSON.
pub(super) fn arguments_text() -> String {
    format!("{{\"of\": \"{PROBE}\"}}")
}

/// A turn that calls a function so many times and says nothing.
pub(crate) fn calling(calls: usize, form: Arguments) -> Message {
    let text = |text: &str| Json::Text(text.to_owned());
    let call = |number: usize| {
        let arguments = match form {
            Arguments::Object => object(vec![("of", Json::Text(PROBE.to_string()))]),
            Arguments::Text => Json::Text(arguments_text()),
        };
        let function = object(vec![("name", text("look")), ("arguments", arguments)]);
        object(vec![
            // Some templates take ids of nine letters and digits only.
            ("id", Json::Text(format!("call{number:05}"))),
            ("type", text("function")),
            ("function", function),
        ])
    };
    let mut message = Message::new("assistant", "");
    message.content = None;
    let calls = Json::List((0..calls).map(call).collect());
    message.fields.insert(TOOL_CALLS.to_owned(), calls);
    message
}

/// The function that is called.
pub(crate) fn tool() -> Json {
    let text = |text: &str| Json::Text(text.to_owned());
    let of = object(vec![
        ("type", text("string")),
        ("description", text("What to look at.")),
    ]);
    let parameters = object(vec![
        ("type", text("object")),
        ("properties", object(vec![("of", of)])),
        ("required", Json::List(vec![text("of")])),
    ]);
    let function = object(vec![
        ("name", text("look")),
        ("description", text("Looks at something.")),
        ("parameters", parameters),
    ]);
    object(vec![("type", text("function")), ("function", function)])
}

fn object(pairs: Vec<(&str, Json)>) -> Json {
    let pairs = pairs.into_iter();
    Json::Object(
        pairs
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}
