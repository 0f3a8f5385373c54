//! Chat templates: a model's own Jinja program that turns a conversation into text, rendered as transformers does it.
//!
//! A template comes with the model and is untrusted: it sees the conversation and nothing else, and can run only so
//! long.

mod forms;
mod fuel;
mod join;
mod json;
mod print;
pub(crate) mod probe;
mod python;
mod stack;

use std::collections::BTreeMap;
use std::ops::Range;

use finetune_artifacts::rows::json::Json;
use finetune_artifacts::rows::{Message, TOOL_CALLS};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, Value};
use regex::Regex;

use forms::{Arguments, Forms};

/// Bytes of the longest template. Real ones have less than half of it.
const LONGEST_SOURCE: usize = 64 << 10;
/// Fuel that prepares a thread for many conversations of ordinary length.
const ORDINARY_FUEL: u64 = 500_000;
/// Marks the start of what the assistant says. A noncharacter: no text may contain it.
const SPAN_START: char = '\u{fdd0}';
/// Marks the end of what the assistant says.
const SPAN_END: char = '\u{fdd1}';
/// Stands in for what a message says, to find where the template prints it.
pub(crate) const PROBE: char = '\u{fdd2}';
/// Stands within what is said, to find out whether the template prints it.
pub(crate) const POINT: char = '\u{fdd3}';
/// The name of the time among the variables; no template can have it.
const TIME: &str = "\u{fdd0}time";
/// The name under which the template is compiled. It ends in nothing that turns on escaping.
const NAME: &str = "chat_template";

/// What can go wrong with a template.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not a Jinja template.
    #[error("the chat template cannot be parsed: {0}")]
    Syntax(String),
    /// It refused a conversation, or failed on it.
    #[error("the chat template fails: {0}")]
    Render(String),
    /// It failed on a conversation that has what it has no place for.
    #[error(
        "the chat template prints no {what}, which the conversation has, and fails on it: {cause}; leave them out, or give the base a \
         template that prints them"
    )]
    Unprinted {
        /// `tools`, `calls`, or both.
        what: &'static str,
        /// How it failed.
        cause: String,
    },
    /// It does more work than a conversation of such a length can need. It does so with the next one too, whatever is tried.
    #[error(
        "the chat template fails: {0}, of which it may take no more for a conversation of this length: give the base a template that \
         does less"
    )]
    Exhausted(String),
    /// There is no thread on which it could run.
    #[error(
        "the chat template cannot run: no thread can be started: {0}; give the process more memory"
    )]
    Thread(#[source] std::io::Error),
    /// The conversation holds a character that no text may hold.
    #[error("a message holds a noncharacter, U+FDD0 to U+FDD3, expected text: remove it")]
    Noncharacter,
}

/// A rendered conversation and the byte ranges of what the assistant says in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Marked {
    /// The text.
    pub text: String,
    /// The ranges between `{% generation %}` and `{% endgeneration %}`.
    pub spans: Vec<Range<usize>>,
}

/// What `strftime_now` tells a template that asks for the time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Time {
    /// The time of the clock, in the time zone of this machine: for what is asked and answered now.
    Clock,
    /// The start of a day, in UTC: for what must be the same whenever it is made.
    Day(jiff::civil::Date),
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    marked: bool,
    forms: Forms,
}

impl ChatTemplate {
    /// Compiles `source`. `special_tokens` are the variables such as `bos_token` that templates read.
    ///
    /// An error where it is too long or no template, and where it never ends.
    pub fn new(source: &str, special_tokens: &BTreeMap<String, String>) -> Result<Self, Error> {
        if source.len() > LONGEST_SOURCE {
            return Err(Error::Syntax(format!(
                "it has {} bytes, expected {LONGEST_SOURCE} at most",
                source.len()
            )));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| Error::Syntax(one_line(&error)))?;
        environment.set_syntax(syntax);
        // Else an error would carry values, and these are dropped where the stack is deep.
        environment.set_debug(false);
        environment.set_unknown_method_callback(python::method);
        environment.add_filter("tojson", json::tojson);
        environment.add_filter("join", join::join);
        environment.add_filter("format", python::format);
        environment.set_formatter(print::print);
        environment.add_filter("string", print::string);
        environment.add_filter("trim", python::trim);
        environment.add_test("iterable", is_iterable);
        environment.add_test("sequence", is_sequence);
        environment.add_test("number", is_number);
        environment.add_test("callable", |_: &Value| false);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        for (name, token) in special_tokens {
            environment.add_global(name.clone(), token.clone());
        }
        let (marked_source, marked) = with_marks(source)?;
        stack::with(stack::TO_PARSE, || {
            environment
                .add_template_owned(NAME, marked_source)
                .map_err(|error| Error::Syntax(one_line(&error)))
        })
        .map_err(Error::Thread)??;
        let mut template = Self {
            source: source.to_owned(),
            environment,
            marked,
            forms: Forms::UNTRIED,
        };
        template.forms = Forms::of(&template)?;
        Ok(template)
    }

    /// The template as the model has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template itself says which parts the assistant generates.
    pub fn is_marked(&self) -> bool {
        self.marked
    }

    /// Whether it asks for the time.
    pub fn asks_for_time(&self) -> bool {
        self.source.contains("strftime_now")
    }

    /// The conversation as text, as it is asked now. With `add_generation_prompt` it ends where the assistant's answer begins.
    /// `tools` describe functions; where there are none the template sees none.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[Json],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let rendered = self.render_marked(messages, tools, add_generation_prompt, Time::Clock)?;
        Ok(rendered.text)
    }

    /// The conversation as text, with the spans that the template marks; none where it marks none.
    pub fn render_marked(
        &self,
        messages: &[Message],
        tools: &[Json],
        add_generation_prompt: bool,
        time: Time,
    ) -> Result<Marked, Error> {
        let marks = [SPAN_START, SPAN_END, PROBE, POINT];
        let holds = |value: &Json| value.to_text().contains(marks);
        if messages.iter().any(|message| {
            message.role.contains(marks)
                || message
                    .content
                    .as_deref()
                    .unwrap_or_default()
                    .contains(marks)
                || message.fields.values().any(holds)
        }) || tools.iter().any(holds)
        {
            return Err(Error::Noncharacter);
        }
        self.render_any(messages, tools, add_generation_prompt, time)
    }

    /// As [`Self::render_marked`], of messages that may hold [`PROBE`] and [`POINT`].
    pub fn render_any(
        &self,
        messages: &[Message],
        tools: &[Json],
        add_generation_prompt: bool,
        time: Time,
    ) -> Result<Marked, Error> {
        let mut first = None;
        for arguments in self.forms.tries(messages) {
            let (prompt, forms) = (add_generation_prompt, self.forms);
            match self.attempt(messages, tools, prompt, time, forms, *arguments) {
                Ok(text) => return Ok(take_marks(&text)),
                Err(error @ (Error::Exhausted(_) | Error::Thread(_))) => return Err(error),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        // There is at least one form to try.
        let error = first.unwrap_or_else(|| Error::Render(String::new()));
        Err(match (error, self.unprinted(messages, tools)) {
            (Error::Render(cause), Some(what)) => Error::Unprinted { what, cause },
            (error, _) => error,
        })
    }

    /// What the conversation has and the template cannot print, whatever is said.
    fn unprinted(&self, messages: &[Message], tools: &[Json]) -> Option<&'static str> {
        let no_tools = !tools.is_empty() && !self.source.contains("tools");
        let calls = |message: &Message| message.fields.contains_key(TOOL_CALLS);
        let no_calls =
            !self.forms.calls && !self.source.contains(TOOL_CALLS) && messages.iter().any(calls);
        match (no_tools, no_calls) {
            (true, true) => Some("tools and no calls"),
            (true, false) => Some("tools"),
            (false, true) => Some("calls"),
            (false, false) => None,
        }
    }

    /// The conversation as text, with marks, in these forms.
    fn attempt(
        &self,
        messages: &[Message],
        tools: &[Json],
        add_generation_prompt: bool,
        time: Time,
        forms: Forms,
        arguments: Arguments,
    ) -> Result<String, Error> {
        let fuel = fuel::of(messages, tools);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let run = || {
            let prompt = add_generation_prompt;
            let variables = variables(messages, tools, prompt, time, forms, arguments);
            let rendered = environment
                .get_template(NAME)
                .and_then(|template| template.render(variables));
            rendered.map_err(|error| match fuel::is_spent(&error) {
                true => Error::Exhausted(one_line(&error)),
                false => Error::Render(one_line(&error)),
            })
        };
        stack::with(stack::to_run(fuel), run).map_err(Error::Thread)?
    }
}

/// Does `work` where conversations of ordinary length can be rendered without a thread for each, if such a place can be had.
pub fn for_many<T: Send>(work: impl Fn() -> T + Sync) -> T {
    stack::with(stack::to_run(ORDINARY_FUEL), &work).unwrap_or_else(|_| work())
}

/// What the template sees.
fn variables(
    messages: &[Message],
    tools: &[Json],
    add_generation_prompt: bool,
    time: Time,
    forms: Forms,
    arguments: Arguments,
) -> Value {
    let messages = messages
        .iter()
        .map(|message| as_value(message, forms, arguments));
    // As transformers has it: these names are always there.
    let tools = match tools {
        [] => Value::from(()),
        tools => Value::from(Serde(tools)),
    };
    Value::from_pairs([
        ("messages", messages.collect::<Value>()),
        ("add_generation_prompt", Value::from(add_generation_prompt)),
        ("tools", tools),
        ("documents", Value::from(())),
        (TIME, time.as_value()),
    ])
}

impl Time {
    /// The day, or none for the clock.
    fn as_value(self) -> Value {
        match self {
            Self::Clock => Value::from(()),
            Self::Day(day) => Value::from(day.to_string()),
        }
    }
}

/// The message as the template sees it: what it does not have is undefined.
fn as_value(message: &Message, forms: Forms, arguments: Arguments) -> Value {
    let content = forms.content(message).map(|content| ("content", content));
    let fields = message.fields.iter().map(|(name, value)| {
        let value = match name.as_str() {
            TOOL_CALLS => Value::from(Serde(forms::with_arguments(value, arguments))),
            _ => Value::from(Serde(value)),
        };
        (name.as_str(), value)
    });
    let role = ("role", Value::from(message.role.as_str()));
    Value::from_pairs([role].into_iter().chain(content).chain(fields))
}

/// Replaces the tags `generation` and `endgeneration`, which are transformers' own, by marks in the text. What a tag says
/// of the white space around it is kept.
fn with_marks(source: &str) -> Result<(String, bool), Error> {
    let tag = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
        .map_err(|error| Error::Syntax(error.to_string()))?;
    if !tag.is_match(source) {
        return Ok((source.to_owned(), false));
    }
    let replaced = tag.replace_all(source, |found: &regex::Captures<'_>| {
        let mark = if found.get(2).is_some() {
            SPAN_END
        } else {
            SPAN_START
        };
        format!(
            "{{%{} if true %}}{{{{ '{mark}' }}}}{{% endif {}%}}",
            &found[1], &found[3]
        )
    });
    Ok((replaced.into_owned(), true))
}

/// Takes the marks out of a text.
fn take_marks(text: &str) -> Marked {
    let mut marked = Marked {
        text: String::with_capacity(text.len()),
        spans: Vec::new(),
    };
    let mut start = None;
    for character in text.chars() {
        match character {
            SPAN_START => start = Some(marked.text.len()),
            SPAN_END => marked
                .spans
                .extend(start.take().map(|start| start..marked.text.len())),
            other => marked.text.push(other),
        }
    }
    marked
}

/// As Python has it: texts can be gone through and nothing cannot, the other way round than minijinja has it.
fn is_iterable(value: &Value) -> bool {
    value.as_str().is_some() || !value.is_none() && value.try_iter().is_ok()
}

fn raise_exception(message: String) -> Result<Value, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, message))
}

/// As Python has it: what has a length and can be indexed, which texts and dictionaries can.
fn is_sequence(value: &Value) -> bool {
    let kinds = [
        ValueKind::Seq,
        ValueKind::String,
        ValueKind::Map,
        ValueKind::Undefined,
    ];
    kinds.contains(&value.kind())
}

/// As Python has it: true and false are numbers.
fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

/// The time by a format of `strftime`, which some templates print as the date of the conversation.
fn strftime_now(state: &State<'_, '_>, format: &str) -> Result<String, JinjaError> {
    let wrong =
        |error: jiff::Error| JinjaError::new(ErrorKind::InvalidOperation, error.to_string());
    let pinned = state.lookup(TIME).filter(|day| !day.is_none());
    let now = match pinned.as_ref().and_then(Value::as_str) {
        Some(day) => day
            .parse::<jiff::civil::Date>()
            .and_then(|day| day.to_zoned(jiff::tz::TimeZone::UTC)),
        None => Ok(now().to_zoned(jiff::tz::TimeZone::system())),
    };
    jiff::fmt::strtime::format(format, &now.map_err(wrong)?).map_err(wrong)
}

/// An error of minijinja with its cause, on one line.
fn one_line(error: &JinjaError) -> String {
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{detail} (line {line} of the template)"),
        None => detail,
    }
}

/// The time now, which a template may ask for where nobody has said what day it is.
#[expect(clippy::disallowed_methods, reason = "the edge at which time comes in")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[cfg(test)]
mod tests;
