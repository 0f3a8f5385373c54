//! Where a turn of the assistant ends: found by rendering conversations whose words are known, since neither `eos_token` nor
//! `generation_config.json` need name it (the base models of Qwen 2.5 and 3 have `<|endoftext|>` there, and end turns with
//! `<|im_end|>`).
//!
//! Pure. It must never name a token that a template prints within a turn, such as one that closes a call.

use finetune_artifacts::rows::Message;
use finetune_artifacts::rows::json::Json;

use super::Tokenizer;
use crate::template::probe::{Arguments, calling, tool};
use crate::template::{ChatTemplate, PROBE, Time};

/// The tokens that end a turn of the assistant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TurnEnd {
    /// Those that end an answer: after words, and where the template prints calls in another way, after calls. At least one.
    pub answer: Vec<u32>,
    /// These, and those that end a turn which others follow. They are the same but in templates that end the last turn in
    /// its own way.
    pub any: Vec<u32>,
}

/// The tokens that `template` ends a turn of the assistant with; `None` where it prints none.
pub(super) fn turn_end(template: &ChatTemplate, tokenizer: &Tokenizer) -> Option<TurnEnd> {
    let words = Message::new("assistant", PROBE);
    let followed = [words.clone(), Message::new("user", "And then?")];
    let of_last = after_words(template, tokenizer, &[words]);
    let of_followed = after_words(template, tokenizer, &followed);
    let known: Vec<u32> = of_last.into_iter().chain(of_followed).collect();
    let of_calls = after_calls(template, tokenizer, &known);

    let sorted = |mut ids: Vec<u32>| {
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let of_words = of_last.or(of_followed);
    let answer = sorted(of_words.into_iter().chain(of_calls).collect());
    let any = sorted(answer.iter().copied().chain(of_followed).collect());
    (!answer.is_empty()).then_some(TurnEnd { answer, any })
}

/// The first token that ends something after the words: nothing of the turn follows words.
fn after_words(template: &ChatTemplate, tokenizer: &Tokenizer, turns: &[Message]) -> Option<u32> {
    let text = rendered(template, turns, &[])?;
    let (_, after) = text.rsplit_once(PROBE)?;
    ends(tokenizer, after).first().copied()
}

/// The token that ends a turn of calls. What closes a call may be such a token too: the turn ends with one of the `known`
/// ends, else with the last token that does not stand between two calls as well.
fn after_calls(template: &ChatTemplate, tokenizer: &Tokenizer, known: &[u32]) -> Option<u32> {
    // Some templates take one call a turn.
    let text = [2, 1]
        .into_iter()
        .filter_map(|calls| rendered(template, &[calling(calls, Arguments::Object)], &[tool()]))
        .find(|text| text.contains(PROBE))?;
    let (before, after) = text.rsplit_once(PROBE)?;
    let between = before.split_once(PROBE).map_or("", |(_, between)| between);
    let (between, after) = (ends(tokenizer, between), ends(tokenizer, after));
    let end = after.iter().find(|id| known.contains(id));
    let own = || after.iter().rfind(|id| !between.contains(id));
    end.or_else(own).copied()
}

/// A question and these turns as text.
fn rendered(template: &ChatTemplate, turns: &[Message], tools: &[Json]) -> Option<String> {
    let mut messages = vec![Message::new("user", "What is there?")];
    messages.extend_from_slice(turns);
    let rendered = template
        .render_any(&messages, tools, false, Time::Clock)
        .ok()?;
    Some(rendered.text)
}

/// The special tokens of a text; where it has none, those that were added to the vocabulary and not marked as special.
fn ends(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let ids = tokenizer.encode(text).unwrap_or_default();
    let those = |wanted: &dyn Fn(u32) -> bool| -> Vec<u32> {
        ids.iter().copied().filter(|id| wanted(*id)).collect()
    };
    let special = those(&|id| tokenizer.is_special(id));
    if special.is_empty() {
        return those(&|id| tokenizer.is_added(id));
    }
    special
}
