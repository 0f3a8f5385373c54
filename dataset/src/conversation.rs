//! Which bytes of a rendered conversation the assistant says.
//!
//! A template that marks its own generation is believed. For others the conversation is rendered again, up to a turn and
//! with the turn's words replaced: the differences show where the turn begins and ends. It must never guess: a turn that
//! the template does not print is refused.

use std::cell::RefCell;
use std::ops::Range;

use finetune_artifacts::rows::json::{Json, Object};
use finetune_artifacts::rows::{Conversation, Message, TOOL_CALLS};
use finetune_crds::fine_tune_job::LossOn;

use super::left_out::{self, LeftOut};
use super::refusal::Refusal;
use crate::template::{ChatTemplate, Error, PROBE, Time};

/// The field with what the assistant thinks before it speaks.
const REASONING: &str = "reasoning_content";

/// A turn of the assistant in a rendered conversation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Turn {
    /// From its first byte to where the next turn begins, as far as that can be told.
    pub(super) span: Range<usize>,
    /// Where what it says ends; the first special token from there on ends the turn.
    pub(super) content_end: usize,
    /// Where the turn ends if no special token ends it.
    pub(super) end: usize,
}

/// A conversation as text, and the turns that matter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rendered {
    pub(super) text: String,
    /// With `LossOn::All` the turns that carry no loss, else those that do.
    pub(super) turns: Vec<Turn>,
    /// What the template leaves out of what was said.
    pub(super) left_out: Vec<LeftOut>,
    /// What the prompt ends in when an answer is asked for, if that does not stand before the answer here.
    pub(super) asked_otherwise: Option<String>,
}

/// Renders a conversation and finds the turns that `loss_on` and the messages' weights want.
pub(super) fn render(
    template: &ChatTemplate,
    conversation: &Conversation,
    loss_on: LossOn,
    time: Time,
) -> Result<Rendered, Refusal> {
    let messages = &conversation.messages;
    let marked = template.render_marked(messages, &conversation.tools, false, time)?;
    let learnt = learnt(messages, loss_on);
    let left_out = left_out::of(template, conversation, &learnt, time, &marked.text)?;
    let finder = Finder {
        template,
        conversation,
        time,
        text: &marked.text,
        fault: RefCell::default(),
    };
    let wanted = match loss_on {
        LossOn::All => unlearnt(messages),
        LossOn::Assistant | LossOn::Completion => learnt.clone(),
    };
    let turns = if template.is_marked() {
        marked_turns(&marked.spans, messages, &wanted, loss_on)?
    } else {
        wanted
            .into_iter()
            .map(|index| finder.turn(index))
            .collect::<Result<_, _>>()
            .map_err(|message| finder.refusal(message))?
    };
    let asked_otherwise = learnt.last().and_then(|last| finder.asked_otherwise(*last));
    if let Some(fault) = finder.fault.take() {
        return Err(fault.into());
    }
    Ok(Rendered {
        text: marked.text,
        turns,
        left_out,
        asked_otherwise,
    })
}

/// The messages that the model is trained to say.
fn learnt(messages: &[Message], loss_on: LossOn) -> Vec<usize> {
    let mut assistant = (0..messages.len()).filter(|index| messages[*index].is_assistant());
    let trained = |index: &usize| messages[*index].trained;
    match loss_on {
        LossOn::All | LossOn::Assistant => assistant.filter(trained).collect(),
        LossOn::Completion => assistant.next_back().filter(trained).into_iter().collect(),
    }
}

/// The messages of the assistant that carry no loss.
fn unlearnt(messages: &[Message]) -> Vec<usize> {
    (0..messages.len())
        .filter(|index| messages[*index].is_assistant() && !messages[*index].trained)
        .collect()
}

/// The turns that the template marks, of which the messages in `wanted`, in order, matter. Without weights they need not be as many
/// as the assistant's messages.
fn marked_turns(
    spans: &[Range<usize>],
    messages: &[Message],
    wanted: &[usize],
    loss_on: LossOn,
) -> Result<Vec<Turn>, String> {
    let turn = |span: &Range<usize>| Turn {
        span: span.clone(),
        content_end: span.end,
        end: span.end,
    };
    let assistant: Vec<usize> = (0..messages.len())
        .filter(|index| messages[*index].is_assistant())
        .collect();
    if spans.len() == assistant.len() {
        let pairs = spans.iter().zip(&assistant);
        let pairs = pairs.filter(|(_, index)| wanted.binary_search(index).is_ok());
        return Ok(pairs.map(|(span, _)| turn(span)).collect());
    }
    if messages.iter().any(|message| !message.trained) {
        return Err(format!(
            "the chat template marks {} parts of the text as the assistant's, who has {} messages, so that `weight` cannot \
             be followed: remove the weights",
            spans.len(),
            assistant.len()
        ));
    }
    Ok(match loss_on {
        LossOn::All => Vec::new(),
        LossOn::Assistant => spans.iter().map(turn).collect(),
        LossOn::Completion => spans.last().map(turn).into_iter().collect(),
    })
}

/// Finds turns in the text of a template without marks.
struct Finder<'a> {
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
    time: Time,
    text: &'a str,
    /// Why the template is not tried further.
    fault: RefCell<Option<Error>>,
}

impl Finder<'_> {
    /// A fault of the template before one of the row.
    fn refusal(&self, message: String) -> Refusal {
        match self.fault.take() {
            Some(fault) => fault.into(),
            None => Refusal::Row(message),
        }
    }

    fn turn(&self, index: usize) -> Result<Turn, String> {
        let unclear = || {
            format!(
                "the chat template prints `messages[{index}]` differently with what follows it, so that its tokens cannot \
                 be told apart: end the row after that turn, set dataset.lossOn: All, or give the template \
                 {{% generation %}} marks"
            )
        };
        let probed = self.probed(index).ok_or_else(unclear)?;
        let start = self.start(index, &probed).ok_or_else(unclear)?;
        let content_end = self.text.len() - common_suffix(self.text, &probed);
        if content_end < start {
            return Err(unclear());
        }
        let last = index + 1 == self.conversation.messages.len();
        let through = if last {
            Some(self.text.len())
        } else {
            self.render(&self.conversation.messages[..=index], false)
                .filter(|through| self.text.starts_with(through) && through.len() >= content_end)
                .map(|through| through.len())
        };
        Ok(Turn {
            span: start..through.unwrap_or(self.text.len()),
            content_end,
            end: through.unwrap_or(content_end),
        })
    }

    /// Where the assistant begins: after the text that a conversation up to here ends with when an answer is asked for.
    fn start(&self, index: usize, probed: &str) -> Option<usize> {
        if let Some(start) = self.start_as_asked(index) {
            return Some(start);
        }
        let fields = &self.conversation.messages[index].fields;
        let words_alone = !fields.contains_key(TOOL_CALLS) && !fields.contains_key(REASONING);
        if words_alone {
            return Some(common_prefix(self.text, probed));
        }
        self.start_after_history(index)
    }

    /// Where the assistant begins, if what stands before is what an answer is asked for with.
    fn start_as_asked(&self, index: usize) -> Option<usize> {
        if index == 0 {
            return None;
        }
        let before = self.render(&self.conversation.messages[..index], true);
        before
            .filter(|before| self.text.starts_with(before))
            .map(|before| before.len())
            .or_else(|| self.start_by_prompt(index))
    }

    /// Where the assistant begins, if an answer is asked for in another way than it stands here: as far as the two agree.
    fn start_after_history(&self, index: usize) -> Option<usize> {
        let (history, asked) = self.asked(index)?;
        let same = common_prefix(&self.text[history..], &asked);
        // A tag that has the first sign of another one is a tag of the answer.
        let same = self.text[history..history + same].trim_end_matches(['<', '|', '[']);
        Some(history + same.len())
    }

    /// The bytes of what comes before a turn, and what asks for the turn.
    fn asked(&self, index: usize) -> Option<(usize, String)> {
        let before = self.conversation.messages.get(..index)?;
        let history = self.render(before, false)?;
        let asked = self.render(before, true)?;
        let asked = asked.strip_prefix(&history)?;
        self.text
            .starts_with(&history)
            .then(|| (history.len(), asked.to_owned()))
    }

    /// What asks for a turn, if that stands nowhere in the text.
    fn asked_otherwise(&self, index: usize) -> Option<String> {
        if index == 0 || self.start_as_asked(index).is_some() {
            return None;
        }
        let (_, asked) = self.asked(index)?;
        (!asked.trim().is_empty() && !self.text.contains(&asked)).then_some(asked)
    }

    /// Where the assistant begins, if the template prints earlier turns otherwise once later ones follow: what stands
    /// between the words of the message before and the answer is the same.
    fn start_by_prompt(&self, index: usize) -> Option<usize> {
        let messages = &self.conversation.messages;
        if messages[index - 1].fields.contains_key(TOOL_CALLS) {
            return None;
        }
        let whole = self.probed(index - 1)?;
        let mut part = messages[..index].to_vec();
        part[index - 1] = probe(&part[index - 1]);
        let part = self.render(&part, true)?;
        let after = |text: &str| text.rfind(PROBE).map(|at| at + PROBE.len_utf8());
        let (rest, prompt) = (&whole[after(&whole)?..], &part[after(&part)?..]);
        (self.text.ends_with(rest) && rest.starts_with(prompt))
            .then(|| self.text.len() - rest.len() + prompt.len())
    }

    /// The whole conversation, with the words of one message replaced; `None` where the template prints none of them.
    fn probed(&self, index: usize) -> Option<String> {
        let mut messages = self.conversation.messages.clone();
        messages[index] = probe(&messages[index]);
        self.render(&messages, false)
            .filter(|text| text.contains(PROBE))
    }

    /// `None` where the template refuses: it may want a whole conversation.
    fn render(&self, messages: &[Message], prompt: bool) -> Option<String> {
        if self.fault.borrow().is_some() {
            return None;
        }
        let tools = &self.conversation.tools;
        match self.template.render_any(messages, tools, prompt, self.time) {
            Ok(marked) => Some(marked.text),
            Err(error @ (Error::Exhausted(_) | Error::Thread(_))) => {
                self.fault.replace(Some(error));
                None
            }
            Err(_) => None,
        }
    }
}

/// The message with other words and other arguments of its calls.
fn probe(message: &Message) -> Message {
    let mut probed = message.clone();
    if let Some(Json::List(calls)) = probed.fields.get_mut(TOOL_CALLS) {
        for call in calls {
            if let Json::Object(call) = call
                && let Some(Json::Object(function)) = call.get_mut("function")
            {
                let other = Json::Object(Object::from([(
                    PROBE.to_string(),
                    Json::Text(PROBE.to_string()),
                )]));
                // In the form that the row has, because templates ask for it.
                let other = match function.get("arguments") {
                    Some(Json::Text(_)) => Json::Text(other.to_text()),
                    _ => other,
                };
                function.insert("arguments".to_owned(), other);
            }
        }
        if probed.content.as_deref().unwrap_or_default().is_empty() {
            return probed;
        }
    }
    probed.content = Some(PROBE.to_string());
    if !probed.parts.is_empty() {
        probed.parts = vec![PROBE.to_string()];
    }
    probed
}

/// Bytes of the longest common start, in whole characters.
fn common_prefix(left: &str, right: &str) -> usize {
    let pairs = left.chars().zip(right.chars());
    pairs
        .take_while(|(left, right)| left == right)
        .map(|(character, _)| character.len_utf8())
        .sum()
}

/// Bytes of the longest common end, in whole characters.
fn common_suffix(left: &str, right: &str) -> usize {
    let pairs = left.chars().rev().zip(right.chars().rev());
    pairs
        .take_while(|(left, right)| left == right)
        .map(|(character, _)| character.len_utf8())
        .sum()
}
