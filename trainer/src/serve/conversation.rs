//! From the messages and tools of a request to the prompt's text, by the model's own template. What the template leaves out of
//! what was said is refused by name. Pure but for the template. A conversation is rendered fewer than twenty times, whatever it holds:
//! a client can send many small messages at once.

use std::collections::{HashMap, HashSet};

use finetune_artifacts::rows::json::{Json, Object};
use finetune_artifacts::rows::{Conversation, Message, TOOL_CALLS};
use finetune_dataset::template::{self, ChatTemplate};

use super::api::{ChatMessage, ChatRequest, Content, ToolCall};
use super::request_error::RequestError;
use super::tools::ToolCalls;

const ASSISTANT: &str = "assistant";
/// Stands in for what is said, to find whether the template prints it. A noncharacter: no text may contain it.
const PROBE: char = '\u{fdd4}';
/// What the assistant thought.
const REASONING: &str = "reasoning_content";
/// The most roles that are tried by themselves, because the template does not print their words as they stand.
const MOST_ODD_ROLES: usize = 8;

/// Renders messages and tools, with or without what asks for an answer.
type Render<'a> = dyn Fn(&[Message], &[Json], bool) -> Result<String, template::Error> + 'a;

/// A prompt, and the functions that its answer may call.
#[derive(Debug)]
pub(super) struct Prompt {
    /// The text, with the special tokens that the template writes.
    pub(super) text: String,
    /// Names; none where no call is to be read.
    pub(super) functions: Vec<String>,
}

/// The prompt of a request. `fits` refuses a text that is too long, before it is rendered once more.
pub(super) fn prompt(
    request: &ChatRequest,
    template: &ChatTemplate,
    calls: ToolCalls,
    fits: &dyn Fn(&str) -> Result<(), RequestError>,
) -> Result<Prompt, RequestError> {
    let render =
        |messages: &[Message], tools: &[Json], prompt| template.render(messages, tools, prompt);
    rendered(request, &render, calls, fits)
}

fn rendered(
    request: &ChatRequest,
    render: &Render<'_>,
    calls: ToolCalls,
    fits: &dyn Fn(&str) -> Result<(), RequestError>,
) -> Result<Prompt, RequestError> {
    let conversation = conversation(request)?;
    let continued = request.continue_final_message.unwrap_or(false);
    let prompt = request.add_generation_prompt.unwrap_or(!continued);
    if continued && prompt {
        return Err(RequestError::field(
            "add_generation_prompt",
            "`add_generation_prompt` and `continue_final_message` are both true, expected one of them",
        ));
    }
    let printed = Printed {
        render,
        conversation: &conversation,
        prompt,
    };
    let text = render(&conversation.messages, &conversation.tools, prompt).map_err(|error| {
        let field = match &error {
            template::Error::Unprinted { what, .. } if what.starts_with("tools") => "tools",
            _ => "messages",
        };
        RequestError::field(field, format!("`{field}`: {error}"))
    })?;
    fits(&text)?;
    printed.check(&text)?;
    let text = if continued {
        let text = printed.up_to_the_last_words()?;
        fits(&text)?;
        text
    } else {
        text
    };
    if !conversation.tools.is_empty() && calls.format.is_none() && !calls.left_as_text {
        return Err(RequestError::field(
            "tools",
            "`tools`: the chat template prints no call in a form that this server reads; name the form that the model was \
             trained on with --tool-call-parser, or none to get calls as text",
        ));
    }
    let functions = conversation.tools.iter().filter_map(function_name);
    Ok(Prompt {
        text,
        functions: functions.map(str::to_owned).collect(),
    })
}

/// The messages and tools as the template gets them.
fn conversation(request: &ChatRequest) -> Result<Conversation, RequestError> {
    let messages = request.messages.as_deref().unwrap_or_default();
    if messages.is_empty() {
        return Err(RequestError::field(
            "messages",
            "`messages` is missing or empty, expected at least one turn",
        ));
    }
    let messages = messages.iter().enumerate();
    let messages = messages.map(|(index, message)| turn(index, message));
    let messages = messages.collect::<Result<_, _>>()?;
    let tools = request.tools.clone().unwrap_or_default();
    for (index, tool) in tools.iter().enumerate() {
        if function_name(tool).is_none_or(str::is_empty) {
            return Err(RequestError::field(
                "tools",
                format!(
                    "`tools[{index}].function.name` is missing, expected {{\"type\": \"function\", \"function\": {{\"name\": …, \
                     \"parameters\": …}}}}"
                ),
            ));
        }
    }
    // Whoever wants no call has the model not told of any.
    let none = request.tool_choice.as_ref().and_then(Json::as_text) == Some("none");
    Ok(Conversation {
        messages,
        tools: if none { Vec::new() } else { tools },
    })
}

fn function_name(tool: &Json) -> Option<&str> {
    let function = tool.as_object()?.get("function")?.as_object()?;
    function.get("name")?.as_text()
}

fn turn(index: usize, message: &ChatMessage) -> Result<Message, RequestError> {
    let wrong =
        |what: String| RequestError::field("messages", format!("`messages[{index}].{what}"));
    let calls = message.tool_calls.as_deref().unwrap_or_default();
    if !calls.is_empty() && message.role != ASSISTANT {
        return Err(wrong(format!(
            "tool_calls` is set and the role is `{}`, expected calls of the assistant alone",
            message.role
        )));
    }
    let mut turn = Message::new(message.role.as_str(), "");
    match &message.content {
        Some(Content::Text(text)) => turn.content = Some(text.clone()),
        Some(Content::Parts(parts)) => {
            let texts = parts.iter().map(|part| match (part.kind.as_str(), &part.text) {
                ("text", Some(text)) => Ok(text.clone()),
                (kind, _) => Err(wrong(format!(
                    "content` has a part of type `{kind}`, expected parts of type `text` with a `text`"
                ))),
            });
            turn.parts = texts.collect::<Result<_, _>>()?;
            turn.content = Some(turn.parts.concat());
        }
        None if !calls.is_empty() => turn.content = None,
        None => {
            return Err(wrong(
                "content` is missing, expected a text; only a message of the assistant with `tool_calls` may lack it".to_owned(),
            ));
        }
    }
    let reasoning = message
        .reasoning_content
        .as_ref()
        .or(message.reasoning.as_ref());
    for (name, value) in [
        ("name", message.name.as_ref()),
        ("tool_call_id", message.tool_call_id.as_ref()),
        (REASONING, reasoning),
    ] {
        if let Some(value) = value {
            turn.fields
                .insert(name.to_owned(), Json::Text(value.clone()));
        }
    }
    if !calls.is_empty() {
        let calls = calls.iter().enumerate();
        let calls = calls.map(|(place, call)| {
            called(call).map_err(|what| wrong(format!("tool_calls[{place}].{what}")))
        });
        let calls = calls.collect::<Result<_, _>>()?;
        turn.fields.insert(TOOL_CALLS.to_owned(), Json::List(calls));
    }
    Ok(turn)
}

/// A call in the order of keys that training data have: some templates print it as it stands. The arguments are an object;
/// rendering makes a text of it for a template that wants one.
fn called(call: &ToolCall) -> Result<Json, String> {
    if call.function.name.is_empty() {
        return Err("function.name` is empty, expected the function's name".to_owned());
    }
    let arguments = match call.function.arguments.as_ref() {
        None => Json::Object(Object::new()),
        // Some clients write no arguments as no text.
        Some(Json::Text(text)) if text.trim().is_empty() => Json::Object(Object::new()),
        Some(Json::Text(text)) => serde_json::from_str(text).map_err(|error| {
            format!("function.arguments` is no JSON: {error}; expected an object as JSON in a text")
        })?,
        Some(other) => other.clone(),
    };
    if arguments.as_object().is_none() {
        return Err(format!(
            "function.arguments` is {}, expected an object as JSON in a text",
            arguments.kind()
        ));
    }
    let function = Object::from([
        ("name".to_owned(), Json::Text(call.function.name.clone())),
        ("arguments".to_owned(), arguments),
    ]);
    let mut fields = Object::new();
    if let Some(id) = &call.id {
        fields.insert("id".to_owned(), Json::Text(id.clone()));
    }
    fields.insert("type".to_owned(), Json::Text("function".to_owned()));
    fields.insert("function".to_owned(), Json::Object(function));
    Ok(Json::Object(fields))
}

/// What the template prints of a conversation, found by printing it otherwise.
struct Printed<'a> {
    render: &'a Render<'a>,
    conversation: &'a Conversation,
    prompt: bool,
}

impl Printed<'_> {
    /// Refuses what `text`, the whole conversation, does not show. A template that fails on another conversation shows something.
    fn check(&self, text: &str) -> Result<(), RequestError> {
        let Conversation { messages, tools } = self.conversation;
        let same = |messages: &[Message], tools: &[Json]| {
            self.render(messages, tools)
                .is_some_and(|other| other == text)
        };
        if !tools.is_empty() && same(messages, &[]) {
            return Err(RequestError::field(
                "tools",
                "`tools`: the model's chat template does not print them, so that the model would not see them; leave them out",
            ));
        }
        let calls = |message: &Message| message.fields.contains_key(TOOL_CALLS);
        if let Some(index) = messages.iter().position(calls) {
            let mut others = messages.clone();
            for message in &mut others {
                message.fields.shift_remove(TOOL_CALLS);
            }
            if same(&others, tools) {
                return Err(RequestError::field(
                    "messages",
                    format!(
                        "`messages[{index}].tool_calls`: the model's chat template does not print calls; leave them out"
                    ),
                ));
            }
        }
        self.check_roles(same)?;
        self.check_reasoning()
    }

    /// Refuses roles of which the template prints nothing. The user's and the assistant's words are what templates are for.
    ///
    /// All roles are tried in one rendering, each with a probe of its own. The first of those whose probe is not printed are tried by
    /// themselves: a template may print their words in another form.
    fn check_roles(&self, same: impl Fn(&[Message], &[Json]) -> bool) -> Result<(), RequestError> {
        let Conversation { messages, tools } = self.conversation;
        let mut roles = Vec::new();
        let mut probes = HashMap::new();
        for (index, message) in messages.iter().enumerate() {
            let role = message.role.as_str();
            let says = !message.content.as_deref().unwrap_or_default().is_empty();
            if says && !["user", ASSISTANT].contains(&role) && !probes.contains_key(role) {
                probes.insert(role, roles.len());
                roles.push((index, role));
            }
        }
        if roles.is_empty() {
            return Ok(());
        }
        let mut others = messages.clone();
        for other in &mut others {
            if let Some(probe) = probes.get(other.role.as_str()) {
                say(other, format!("{PROBE}{probe};"));
            }
        }
        let Some(text) = self.render(&others, tools) else {
            return Ok(());
        };
        let printed = printed_probes(&text);
        let odd = (0..)
            .zip(roles)
            .filter(|(probe, _)| !printed.contains(probe));
        for (_, (index, role)) in odd.take(MOST_ODD_ROLES) {
            let mut others = messages.clone();
            for other in others.iter_mut().filter(|other| other.role == role) {
                say(other, PROBE.to_string());
            }
            if same(&others, tools) {
                return Err(RequestError::field(
                    "messages",
                    format!(
                        "`messages[{index}]`: the model's chat template does not print messages of the role `{role}`; leave them out"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Refuses thoughts where the template prints not even those of the last turn. Many leave out those before.
    fn check_reasoning(&self) -> Result<(), RequestError> {
        let Conversation { messages, tools } = self.conversation;
        let thinks = |message: &Message| message.fields.contains_key(REASONING);
        let Some(index) = messages.iter().rposition(thinks) else {
            return Ok(());
        };
        let mut others = messages[..=index].to_vec();
        let probe = Json::Text(PROBE.to_string());
        others[index].fields.insert(REASONING.to_owned(), probe);
        let printed = (self.render)(&others, tools, false);
        if printed.is_ok_and(|printed| !printed.contains(PROBE)) {
            return Err(RequestError::field(
                "messages",
                format!(
                    "`messages[{index}].{REASONING}`: the model's chat template does not print thoughts; leave them out"
                ),
            ));
        }
        Ok(())
    }

    /// The text up to the end of the last message's words, for an answer that goes on with them.
    fn up_to_the_last_words(&self) -> Result<String, RequestError> {
        let wrong = |what: &str| {
            RequestError::field(
                "continue_final_message",
                format!(
                    "`continue_final_message` is true and the last message {what}, expected words of the assistant to go on with"
                ),
            )
        };
        let mut messages = self.conversation.messages.clone();
        let Some(last) = messages.last_mut() else {
            return Err(wrong("is missing"));
        };
        if last.role != ASSISTANT {
            return Err(wrong("is not the assistant's"));
        }
        let words = last.content.clone().unwrap_or_default();
        if words.is_empty() {
            return Err(wrong("has no words"));
        }
        say(last, format!("{words}{PROBE}"));
        let text = self.render(&messages, &self.conversation.tools);
        let end = text.as_ref().and_then(|text| text.rfind(PROBE));
        match (text, end) {
            (Some(text), Some(end)) => Ok(text[..end].to_owned()),
            _ => Err(wrong("is not printed by the chat template")),
        }
    }

    fn render(&self, messages: &[Message], tools: &[Json]) -> Option<String> {
        (self.render)(messages, tools, self.prompt).ok()
    }
}

/// The numbers of the probes in a text.
fn printed_probes(text: &str) -> HashSet<usize> {
    let after = text.split(PROBE).skip(1);
    let numbers = after.filter_map(|after| after.split_once(';')?.0.parse().ok());
    numbers.collect()
}

/// Lets a message say something else, in as many parts as it has.
fn say(message: &mut Message, words: String) {
    if !message.parts.is_empty() {
        message.parts = vec![words.clone()];
    }
    message.content = Some(words);
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
