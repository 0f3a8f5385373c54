//! What a chat template leaves out of what was said: a template may drop reasoning, tools, calls beside words, or whole turns,
//! and says nothing of it.
//!
//! The conversation is rendered once more with a numbered point within each thing that is said: a point that is not printed
//! tells what is left out. Pure.

use std::collections::HashSet;
use std::fmt;
use std::sync::LazyLock;

use finetune_artifacts::rows::json::{Json, Object};
use finetune_artifacts::rows::{Conversation, Message, TOOL_CALLS};
use regex::Regex;

use super::refusal::Refusal;
use crate::template::{ChatTemplate, Error, POINT, Time};

/// Something that a row says.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Part {
    /// All of a message.
    Turn,
    /// Words of a message.
    Words,
    /// Words of a message that calls too, which some templates print calls alone of.
    WordsBesideCalls,
    /// Reasoning within the words of the assistant, before its closing tag.
    Thought,
    /// `reasoning_content`.
    Reasoning,
    /// `tool_calls`.
    Calls,
    /// `name`.
    Name,
    /// The descriptions of functions.
    Tools,
}

/// Something that a row says and its rendering does not.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LeftOut {
    /// What it is.
    pub part: Part,
    /// Of which message; of tools none.
    pub message: Option<usize>,
    /// Whether the model is trained to say what that message says.
    pub learnt: bool,
    /// Whether a turn of the user follows, as after reasoning that a template drops once the conversation goes on.
    pub earlier: bool,
}

impl LeftOut {
    /// Whether nobody can want it: what is to be learnt, but for the reasoning of an earlier turn.
    fn is_fault(self) -> bool {
        let is_thought = matches!(self.part, Part::Thought | Part::Reasoning);
        match self.part {
            Part::Name | Part::Tools | Part::WordsBesideCalls => false,
            Part::Turn | Part::Words | Part::Thought | Part::Reasoning | Part::Calls => {
                self.learnt && !(is_thought && self.earlier)
            }
        }
    }
}

/// Where it stands, for messages.
impl fmt::Display for LeftOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(message) = self.message else {
            return formatter.write_str("`tools`");
        };
        match self.part {
            Part::Turn | Part::Tools => write!(formatter, "`messages[{message}]`"),
            Part::Words | Part::WordsBesideCalls => {
                write!(formatter, "a part of `messages[{message}].content`")
            }
            Part::Thought => write!(formatter, "the reasoning in `messages[{message}].content`"),
            Part::Reasoning => write!(formatter, "`messages[{message}].reasoning_content`"),
            Part::Calls => write!(formatter, "`messages[{message}].tool_calls`"),
            Part::Name => write!(formatter, "`messages[{message}].name`"),
        }
    }
}

/// What `template` leaves out of the conversation, whose rendering is `text`; of its messages those in `learnt`, in order, are to
/// be learnt. An error names what nobody can want left out.
pub(super) fn of(
    template: &ChatTemplate,
    conversation: &Conversation,
    learnt: &[usize],
    time: Time,
    text: &str,
) -> Result<Vec<LeftOut>, Refusal> {
    let mut points = Points::default();
    let pointed = points.within(conversation);
    let printed: Box<dyn Fn(usize) -> bool + '_> =
        match template.render_any(&pointed.messages, &pointed.tools, false, time) {
            Ok(rendered) => {
                let found = numbers(&rendered.text);
                Box::new(move |number| found.contains(&number))
            }
            Err(error @ (Error::Exhausted(_) | Error::Thread(_))) => return Err(error.into()),
            // It asks for certain words: look for the words themselves.
            Err(_) => Box::new(|number| holds(text, &points.list[number].text)),
        };
    let left_out = points.left_out(&*printed, &conversation.messages, learnt);
    match left_out.iter().find(|left_out| left_out.is_fault()) {
        Some(fault) => Err(format!(
            "the chat template leaves out {fault}, which is to be learnt: take it out of the rows, or give the base a template \
             that prints it"
        )
        .into()),
        None => Ok(left_out),
    }
}

/// Whether a text holds another one, as it stands or as JSON has it.
fn holds(text: &str, wanted: &str) -> bool {
    let wanted = wanted.trim();
    let json = Json::Text(wanted.to_owned()).to_text();
    text.contains(wanted) || text.contains(json.trim_matches('"'))
}

/// The numbers of the points that are printed, as they stand or as JSON in ASCII has them.
fn numbers(text: &str) -> HashSet<usize> {
    let escaped = format!("\\u{:04x}", POINT as u32);
    let text = text.replace(&escaped, &POINT.to_string());
    text.split(POINT)
        .filter_map(|piece| piece.parse().ok())
        .collect()
}

/// A point: within what, and the words around it.
struct Point {
    part: Part,
    message: Option<usize>,
    text: String,
}

#[derive(Default)]
struct Points {
    list: Vec<Point>,
}

impl Points {
    /// The conversation with points.
    fn within(&mut self, conversation: &Conversation) -> Conversation {
        let mut pointed = conversation.clone();
        let mut called = HashSet::new();
        for (index, message) in pointed.messages.iter_mut().enumerate() {
            self.within_message(index, message, &mut called);
        }
        for tool in &mut pointed.tools {
            let Json::Object(tool) = tool else { continue };
            if let Some(Json::Object(function)) = tool.get_mut("function") {
                for key in ["name", "description"] {
                    self.within_field(function, key, Part::Tools, None);
                }
            }
        }
        pointed
    }

    fn within_message(
        &mut self,
        index: usize,
        message: &mut Message,
        called: &mut HashSet<String>,
    ) {
        let at = Some(index);
        let assistant = message.is_assistant();
        if message.parts.is_empty() {
            message.content = message
                .content
                .take()
                .map(|content| self.within_words(&content, assistant, at));
        } else {
            let parts = std::mem::take(&mut message.parts);
            let parts = parts
                .iter()
                .map(|part| self.within_words(part, assistant, at));
            message.parts = parts.collect();
            message.content = Some(message.parts.concat());
        }
        self.within_field(
            &mut message.fields,
            "reasoning_content",
            Part::Reasoning,
            at,
        );
        // The name of a function that was called before says nothing new.
        let known = message.role == "tool"
            && message
                .fields
                .get("name")
                .and_then(Json::as_text)
                .is_some_and(|name| called.contains(name));
        if !known {
            self.within_field(&mut message.fields, "name", Part::Name, at);
        }
        if let Some(Json::List(calls)) = message.fields.get_mut(TOOL_CALLS) {
            for call in calls {
                if let Json::Object(call) = call
                    && let Some(Json::Object(function)) = call.get_mut("function")
                {
                    called.extend(
                        function
                            .get("name")
                            .and_then(Json::as_text)
                            .map(str::to_owned),
                    );
                    self.within_field(function, "name", Part::Calls, at);
                    self.within_arguments(function, at);
                }
            }
        }
    }

    /// One more argument, in the form that the others have.
    fn within_arguments(&mut self, function: &mut Object, message: Option<usize>) {
        let Some(arguments) = function.get_mut("arguments") else {
            return;
        };
        let mut object = match &*arguments {
            Json::Object(object) => object.clone(),
            Json::Text(text) => match serde_json::from_str(text) {
                Ok(Json::Object(object)) => object,
                _ => return,
            },
            _ => return,
        };
        let point = self.add(Part::Calls, message, &arguments.to_text());
        object.insert(point, Json::Boolean(true));
        let object = Json::Object(object);
        *arguments = match &*arguments {
            Json::Text(_) => Json::Text(object.to_text()),
            _ => object,
        };
    }

    fn within_field(&mut self, fields: &mut Object, key: &str, part: Part, message: Option<usize>) {
        if let Some(Json::Text(text)) = fields.get_mut(key) {
            *text = self.within_pieces(text, &|_| part, message);
        }
    }

    fn within_words(&mut self, text: &str, assistant: bool, message: Option<usize>) -> String {
        let thought = if assistant { end_of_thought(text) } else { 0 };
        let part = |at: usize| {
            if at < thought {
                Part::Thought
            } else {
                Part::Words
            }
        };
        self.within_pieces(text, &part, message)
    }

    /// A point within each line, and between tags, which templates look for.
    fn within_pieces(
        &mut self,
        text: &str,
        part: &dyn Fn(usize) -> Part,
        message: Option<usize>,
    ) -> String {
        let mut result = String::with_capacity(text.len());
        let mut start = 0;
        let borders = BORDER.as_ref().map(|border| border.find_iter(text));
        let borders = borders.into_iter().flatten().map(|found| found.range());
        for border in borders.chain(std::iter::once(text.len()..text.len())) {
            let piece = &text[start..border.start];
            if piece.trim().is_empty() {
                result.push_str(piece);
            } else {
                let middle = piece.floor_char_boundary(piece.len() / 2);
                let first = piece.chars().next().map_or(0, char::len_utf8);
                let (before, after) = piece.split_at(middle.max(first));
                let point = self.add(part(start), message, piece);
                result.extend([before, &point, after]);
            }
            result.push_str(&text[border.clone()]);
            start = border.end;
        }
        result
    }

    fn add(&mut self, part: Part, message: Option<usize>, text: &str) -> String {
        self.list.push(Point {
            part,
            message,
            text: text.to_owned(),
        });
        format!("{POINT}{}{POINT}", self.list.len() - 1)
    }

    /// What is left out, each part of a message once; a message of which nothing is printed as a whole.
    fn left_out(
        &self,
        printed: &dyn Fn(usize) -> bool,
        messages: &[Message],
        learnt: &[usize],
    ) -> Vec<LeftOut> {
        let last_question = messages.iter().rposition(|message| message.role == "user");
        let left_out = |part, message: Option<usize>| LeftOut {
            part,
            message,
            learnt: message.is_some_and(|index| learnt.binary_search(&index).is_ok()),
            earlier: message.is_some() && message < last_question,
        };
        let unsaid = self.unsaid(printed);
        let mut found_before = HashSet::new();
        let mut result = Vec::new();
        for (number, point) in self.list.iter().enumerate() {
            if printed(number) {
                continue;
            }
            let whole = point.message.is_some_and(|index| unsaid.contains(&index));
            let calls = point
                .message
                .is_some_and(|index| messages[index].fields.contains_key(TOOL_CALLS));
            let part = match point.part {
                _ if whole => Part::Turn,
                Part::Words if calls => Part::WordsBesideCalls,
                part => part,
            };
            let found = left_out(part, point.message);
            if found_before.insert(found) {
                result.push(found);
            }
        }
        result
    }

    /// The messages of which nothing is printed, names aside. Of a turn that only calls, the calls are named.
    fn unsaid(&self, printed: &dyn Fn(usize) -> bool) -> HashSet<usize> {
        let mut unsaid = HashSet::new();
        let mut said = HashSet::new();
        for (number, point) in self.list.iter().enumerate() {
            let Some(message) = point.message.filter(|_| point.part != Part::Name) else {
                continue;
            };
            if !said.contains(&message) && printed(number) {
                said.insert(message);
            }
            if point.part != Part::Calls {
                unsaid.insert(message);
            }
        }
        unsaid.retain(|message| !said.contains(message));
        unsaid
    }
}

/// What points must not stand in: ends of lines, tags, fences.
static BORDER: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\s*\n\s*|<[^<>\n]{1,40}>|\[/?[A-Z_]{2,30}\]|```").ok());

/// Where the reasoning in what the assistant says ends; 0 where there is none.
fn end_of_thought(text: &str) -> usize {
    static END: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"(?i)</(think|thinking|thought|thoughts|reasoning|reflection)>|\[/THINK\]").ok()
    });
    let ends = END.as_ref().map(|end| end.find_iter(text));
    let last = ends.into_iter().flatten().last();
    last.map_or(0, |found| found.start())
}

#[cfg(test)]
mod tests;
