//! In which forms a template takes what a message can hold: found once by trying, since nothing else says it.
//!
//! What transformers hands on in one form only, a person means in any: `content` that is absent, null or empty says nothing, and
//! arguments are the same as an object and as JSON in a text. Pure.

use finetune_artifacts::rows::json::Json;
use finetune_artifacts::rows::{Message, TOOL_CALLS};
use minijinja::Value;
use minijinja::value::Serde;

use super::probe::{self, calling, tool};
use super::{ChatTemplate, Error, PROBE, Time, json};

/// The content of a turn that calls and says nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Nothing {
    /// The key is not there.
    Absent,
    /// An empty text.
    Empty,
    /// `none`, which some templates ask for, and others would print.
    Null,
}

/// The arguments of calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Arguments {
    /// As the row has them.
    Given,
    /// As objects.
    Objects,
    /// As JSON in texts.
    Texts,
}

/// The forms that a template takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forms {
    /// Whether it prints the texts of a content that is a list, as those of multimodal checkpoints do. Others fail on it, or
    /// print the list itself, with its quotes.
    pub(super) parts: bool,
    /// Whether it prints calls.
    pub(super) calls: bool,
    /// Of a turn that calls, where the row has no content.
    pub(super) absent: Nothing,
    /// Of a turn that calls, where the row has an empty content.
    pub(super) empty: Nothing,
    /// Whether arguments that are a text are printed as they stand. Other templates put them into quotes a second time, or
    /// fail.
    pub(super) text_arguments: bool,
}

impl Forms {
    /// What holds as long as nothing was tried.
    pub(super) const UNTRIED: Self = Self {
        parts: true,
        calls: true,
        absent: Nothing::Absent,
        empty: Nothing::Empty,
        text_arguments: true,
    };

    /// Tries the template. An error where it runs out of fuel or cannot run; whatever else it fails on is a form that it does not
    /// take.
    pub(super) fn of(template: &ChatTemplate) -> Result<Self, Error> {
        let text = |nothing| {
            let message = calling(1, probe::Arguments::Object);
            let forms = Self {
                absent: nothing,
                ..Self::UNTRIED
            };
            let text = calls(template, forms, message)?;
            Ok(text.map(|text| Tried {
                nothing,
                calls: text.contains(PROBE),
                words: text.matches("None").count(),
            }))
        };
        let mut tried: Vec<Tried> = [Nothing::Absent, Nothing::Empty, Nothing::Null]
            .into_iter()
            .filter_map(|nothing| text(nothing).transpose())
            .collect::<Result<_, Error>>()?;
        // A form that prints the calls, and not Python's word for nothing. Where none prints them, one on which the template does not
        // fail shows that they are left out.
        let prints_calls = tried.iter().any(|tried| tried.calls);
        tried.retain(|tried| tried.calls == prints_calls);
        let least = tried.iter().map(|tried| tried.words).min();
        let first = |wanted: [Nothing; 3]| {
            let good = |nothing: &Nothing| {
                let mut tried = tried.iter();
                tried.any(|tried| tried.nothing == *nothing && Some(tried.words) == least)
            };
            let found = wanted.into_iter().find(good);
            found.unwrap_or(wanted[0])
        };
        let absent = first([Nothing::Absent, Nothing::Empty, Nothing::Null]);
        let empty = first([Nothing::Empty, Nothing::Absent, Nothing::Null]);
        let forms = Self {
            absent,
            ..Self::UNTRIED
        };
        let text = taken(template.attempt(
            &question(calling(1, probe::Arguments::Text)),
            &[tool()],
            false,
            Time::Clock,
            forms,
            Arguments::Given,
        ))?;
        Ok(Self {
            parts: prints_parts(template)?,
            calls: prints_calls,
            absent,
            empty,
            text_arguments: text.is_some_and(|text| text.contains(&probe::arguments_text())),
        })
    }

    /// The content of a message as the template sees it; `None` where it sees no such key.
    pub(super) fn content(self, message: &Message) -> Option<Value> {
        let nothing = match &message.content {
            Some(_) if self.parts && !message.parts.is_empty() => {
                return Some(message.parts.iter().map(|text| part(text)).collect());
            }
            Some(content) if !content.is_empty() || !message.fields.contains_key(TOOL_CALLS) => {
                return Some(Value::from(content.as_str()));
            }
            Some(_) => self.empty,
            None => self.absent,
        };
        match nothing {
            Nothing::Absent => None,
            Nothing::Empty => Some(Value::from("")),
            Nothing::Null => Some(Value::from(())),
        }
    }

    /// The forms in which calls are tried, the likeliest first.
    pub(super) fn tries(self, messages: &[Message]) -> &'static [Arguments] {
        use Arguments::{Given, Objects, Texts};
        let mut calls = messages.iter().flat_map(calls_of).peekable();
        if calls.peek().is_none() {
            return &[Given];
        }
        let as_text = calls.any(|call| matches!(arguments_of(call), Some(Json::Text(_))));
        if as_text && !self.text_arguments {
            &[Objects, Given, Texts]
        } else {
            &[Given, Objects, Texts]
        }
    }
}

/// What a template makes of a turn that calls, in one form of nothing.
struct Tried {
    nothing: Nothing,
    /// Whether it prints the call.
    calls: bool,
    /// How often it prints Python's word for nothing.
    words: usize,
}

/// What was rendered; `None` where the template does not take it.
fn taken(rendered: Result<String, Error>) -> Result<Option<String>, Error> {
    match rendered {
        Ok(text) => Ok(Some(text)),
        Err(error @ (Error::Exhausted(_) | Error::Thread(_))) => Err(error),
        Err(_) => Ok(None),
    }
}

fn prints_parts(template: &ChatTemplate) -> Result<bool, Error> {
    let mut message = Message::new("user", PROBE);
    message.parts = vec![PROBE.to_string()];
    let tried = taken(template.attempt(
        &[message],
        &[],
        false,
        Time::Clock,
        Forms::UNTRIED,
        Arguments::Given,
    ))?;
    let quoted = |text: &str| text.ends_with(['"', '\'', '\\']);
    let before = tried.as_deref().and_then(|text| text.split_once(PROBE));
    Ok(before.is_some_and(|(before, _)| !quoted(before)))
}

/// A question and this turn.
fn question(turn: Message) -> [Message; 2] {
    [Message::new("user", "What is there?"), turn]
}

/// The text of a turn that calls, in whichever form of arguments the template takes.
fn calls(template: &ChatTemplate, forms: Forms, turn: Message) -> Result<Option<String>, Error> {
    let messages = question(turn);
    for form in [Arguments::Given, Arguments::Texts] {
        let tools = [tool()];
        let text = taken(template.attempt(&messages, &tools, false, Time::Clock, forms, form))?;
        if text.is_some() {
            return Ok(text);
        }
    }
    Ok(None)
}

fn part(text: &str) -> Value {
    Value::from_pairs([("type", Value::from("text")), ("text", Value::from(text))])
}

/// The calls of a message.
fn calls_of(message: &Message) -> impl Iterator<Item = &Json> {
    let calls = match message.fields.get(TOOL_CALLS) {
        Some(Json::List(calls)) => calls.as_slice(),
        _ => &[],
    };
    calls.iter()
}

fn arguments_of(call: &Json) -> Option<&Json> {
    let function = call.as_object()?.get("function")?.as_object()?;
    function.get("arguments")
}

/// The calls of a message with arguments in the wanted form. Text that is no JSON stays as it is.
pub(super) fn with_arguments(calls: &Json, wanted: Arguments) -> Json {
    let mut calls = calls.clone();
    let Json::List(list) = &mut calls else {
        return calls;
    };
    for call in list {
        let function = match call {
            Json::Object(call) => call.get_mut("function"),
            _ => None,
        };
        let Some(Json::Object(function)) = function else {
            continue;
        };
        let Some(arguments) = function.get_mut("arguments") else {
            continue;
        };
        let other = match (wanted, &*arguments) {
            (Arguments::Objects, Json::Text(text)) => serde_json::from_str(text).ok(),
            (Arguments::Texts, Json::Object(_)) => json::dumps(&Value::from(Serde(&*arguments)))
                .ok()
                .map(Json::Text),
            _ => None,
        };
        if let Some(other) = other {
            *arguments = other;
        }
    }
    calls
}
