//! Chat templates: a model's own Jinja program that turns a conversation into text, rendered as transformers does it.
//!
//! A template comes with the model and is untrusted: it sees the conversation and nothing else, and can run only so
//! long.

mod json;
mod print;
mod probe;
mod turn_end;

use std::collections::BTreeMap;
use std::ops::Range;

use finetune_artifacts::rows::Message;
use finetune_artifacts::rows::json::Json;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error as JinjaError, ErrorKind, Value, context};
use regex::Regex;

pub use turn_end::{TurnEnd, turn_end};

/// Instructions that a template may take for one conversation; ordinary ones take some thousands.
const FUEL: u64 = 50_000_000;
/// Marks the start of what the assistant says. A noncharacter: no text may contain it.
const SPAN_START: char = '\u{fdd0}';
/// Marks the end of what the assistant says.
const SPAN_END: char = '\u{fdd1}';
/// Stands in for what a message says, to find where the template prints it.
pub(crate) const PROBE: char = '\u{fdd2}';
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
    /// The conversation holds a character that no text may hold.
    #[error("a message holds a noncharacter, U+FDD0 to U+FDD2, expected text: remove it")]
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

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    marked: bool,
    takes_parts: bool,
}

impl ChatTemplate {
    /// Compiles `source`. `special_tokens` are the variables such as `bos_token` that templates read.
    pub fn new(source: &str, special_tokens: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| Error::Syntax(one_line(&error)))?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        environment.set_formatter(print::print);
        environment.add_filter("string", print::string);
        environment.add_test("iterable", is_iterable);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        for (name, token) in special_tokens {
            environment.add_global(name.clone(), token.clone());
        }
        let (marked_source, marked) = with_marks(source)?;
        environment
            .add_template_owned(NAME, marked_source)
            .map_err(|error| Error::Syntax(one_line(&error)))?;
        let mut template = Self {
            source: source.to_owned(),
            environment,
            marked,
            takes_parts: true,
        };
        template.takes_parts = template.prints_parts();
        Ok(template)
    }

    /// Whether the template prints the texts of a content that is a list, as those of multimodal checkpoints do. Others
    /// fail on it, or print the list itself, with its quotes.
    fn prints_parts(&self) -> bool {
        let mut message = Message::new("user", PROBE);
        message.parts = vec![PROBE.to_string()];
        let Ok(rendered) = self.render_any(&[message], &[], false) else {
            return false;
        };
        let quoted = |text: &str| text.ends_with(['"', '\'', '\\']);
        match rendered.text.split_once(PROBE) {
            Some((before, _)) => !quoted(before),
            None => false,
        }
    }

    /// The template as the model has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template itself says which parts the assistant generates.
    pub fn is_marked(&self) -> bool {
        self.marked
    }

    /// The conversation as text. With `add_generation_prompt` it ends where the assistant's answer begins. `tools` describe
    /// functions; where there are none the template sees none.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[Json],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let rendered = self.render_marked(messages, tools, add_generation_prompt)?;
        Ok(rendered.text)
    }

    /// The conversation as text, with the spans that the template marks; none where it marks none.
    pub fn render_marked(
        &self,
        messages: &[Message],
        tools: &[Json],
        add_generation_prompt: bool,
    ) -> Result<Marked, Error> {
        let marks = [SPAN_START, SPAN_END, PROBE];
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
        self.render_any(messages, tools, add_generation_prompt)
    }

    /// As [`Self::render_marked`], of messages that may hold [`PROBE`].
    pub(crate) fn render_any(
        &self,
        messages: &[Message],
        tools: &[Json],
        add_generation_prompt: bool,
    ) -> Result<Marked, Error> {
        let tools = match tools {
            [] => Value::from(()),
            tools => Value::from(Serde(tools)),
        };
        let text = self
            .environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages => messages.iter().map(|message| self.as_value(message)).collect::<Value>(),
                    add_generation_prompt,
                    tools,
                    documents => (),
                })
            })
            .map_err(|error| Error::Render(one_line(&error)))?;
        Ok(take_marks(&text))
    }

    /// The message as the template sees it.
    fn as_value(&self, message: &Message) -> Value {
        let part = |text: &String| {
            Value::from_pairs([
                ("type", Value::from("text")),
                ("text", Value::from(text.as_str())),
            ])
        };
        let content = match &message.content {
            Some(_) if self.takes_parts && !message.parts.is_empty() => {
                message.parts.iter().map(part).collect()
            }
            Some(content) => Value::from(content.as_str()),
            None => Value::from(()),
        };
        let fields = message
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
        let pairs = [
            ("role", Value::from(message.role.as_str())),
            ("content", content),
        ];
        Value::from_pairs(pairs.into_iter().chain(fields))
    }
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

/// The present time by a format of `strftime`, which some templates print as the date of the conversation.
fn strftime_now(format: &str) -> Result<String, JinjaError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the template asks for the clock; nothing of ours depends on the answer"
    )]
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::system());
    jiff::fmt::strtime::format(format, &now)
        .map_err(|error| JinjaError::new(ErrorKind::InvalidOperation, error.to_string()))
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

#[cfg(test)]
mod tests;
