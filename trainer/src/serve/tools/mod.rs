//! Calls of functions in what a model says: each family of models writes them in a form of its own.
//!
//! Pure: text in, calls and the text around them out. It never panics, whatever the text, and text that is no call stays text.

mod choose;
mod granite;
mod hermes;
mod json;
mod llama3_json;
mod mistral;

use std::ops::Range;

use clap::ValueEnum;

pub(super) use choose::ToolCalls;

/// How answers that call are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ToolCallParser {
    /// As the chat template writes calls
    Auto,
    /// Not at all: a call is text
    None,
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Qwen, Hermes, SmolLM, Granite 4
    Hermes,
    /// `{"name": …, "parameters": …}` alone: Llama 3
    Llama3Json,
    /// `[TOOL_CALLS] [{"name": …, "arguments": …}]` or `[TOOL_CALLS]name[ARGS]{…}`: Mistral
    Mistral,
    /// `<|tool_call|>[{"name": …, "arguments": …}]`: Granite 3
    Granite,
}

/// A form in which models write calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    Hermes,
    Llama3Json,
    Mistral,
    Granite,
}

/// A call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Call {
    /// The function's name.
    pub(super) name: String,
    /// An object, as JSON.
    pub(super) arguments: String,
}

/// Calls after a tag, and the bytes that they take; `None` where there are none.
type Found = Option<(Vec<Call>, usize)>;

/// A text taken apart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Parsed {
    /// The calls, in order.
    pub(super) calls: Vec<Call>,
    /// The bytes that belong to no call, in order.
    pub(super) rest: Vec<Range<usize>>,
}

impl Format {
    /// All of them, the ones that are hardest to mistake first.
    const ALL: [Self; 4] = [Self::Hermes, Self::Granite, Self::Mistral, Self::Llama3Json];

    /// Where in `text`, the beginning of an answer, a call begins or may begin once more text has come; its length where none
    /// does. What stands before is certainly no call.
    pub(super) fn beginning(self, text: &str) -> usize {
        match self {
            Self::Hermes => tag(text, hermes::BEGINNING),
            Self::Llama3Json => llama3_json::beginning(text),
            Self::Mistral => tag(text, mistral::BEGINNING),
            Self::Granite => tag(text, granite::BEGINNING),
        }
    }

    /// The calls in a whole answer. `functions` are the names that may be called.
    pub(super) fn parse(self, text: &str, functions: &[String]) -> Parsed {
        match self {
            Self::Hermes => tagged(text, hermes::BEGINNING, hermes::calls),
            Self::Llama3Json => llama3_json::parse(text, functions),
            Self::Mistral => tagged(text, mistral::BEGINNING, |inside| {
                mistral::calls(inside, functions)
            }),
            Self::Granite => tagged(text, granite::BEGINNING, granite::calls),
        }
    }

    /// Whether text may stand beside calls; else an answer is calls alone or none.
    pub(super) const fn calls_within_text(self) -> bool {
        !matches!(self, Self::Llama3Json)
    }

    /// The name of a new call. Mistral's templates refuse names of another length.
    pub(super) fn new_id(self) -> String {
        let random = format!("{:032x}", rand::random::<u128>());
        match self {
            Self::Mistral => random[..9].to_owned(),
            Self::Hermes | Self::Llama3Json | Self::Granite => format!("call_{}", &random[..24]),
        }
    }
}

/// Where a tag stands, or where the end of the text may become one.
fn tag(text: &str, tag: &str) -> usize {
    if let Some(at) = text.find(tag) {
        return at;
    }
    let may_begin = |start: &usize| tag.starts_with(&text[*start..]);
    // A tag has few bytes: only so many at the end can be its beginning.
    let near = text.len().saturating_sub(tag.len());
    text.char_indices()
        .map(|(start, _)| start)
        .skip_while(|start| *start < near)
        .find(may_begin)
        .unwrap_or(text.len())
}

/// The calls of a form in which a tag stands before them. `calls` reads what follows the tag, and says where it ends.
fn tagged(text: &str, tag: &str, calls: impl Fn(&str) -> Found) -> Parsed {
    let mut parsed = Parsed::default();
    let (mut rest, mut at) = (0, 0);
    while let Some(found) = text[at..].find(tag) {
        let (start, inside) = (at + found, at + found + tag.len());
        at = inside;
        if let Some((found, length)) = calls(&text[inside..]) {
            parsed.calls.extend(found);
            parsed.rest.push(rest..start);
            at = inside + length;
            rest = at;
        }
    }
    parsed.rest.push(rest..text.len());
    parsed.rest.retain(|range| !range.is_empty());
    parsed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIECES: [&str; 24] = [
        "<tool_call>",
        "</tool_call>",
        "<|tool_call|>",
        "<|/tool_call|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "<|python_tag|>",
        "{\"name\": \"stock\", \"arguments\": {\"a\": 1}}",
        "{\"name\": \"stock\", \"parameters\": {}}",
        "[",
        "]",
        "{",
        "}",
        "\"",
        ",",
        ";",
        ":",
        "\n",
        " ",
        "é😀",
        "stock",
        "\\u12",
        "null",
    ];

    fn any_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            3 => prop::sample::select(PIECES.to_vec()).prop_map(str::to_owned),
            1 => "\\PC{0,6}",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn any_format() -> impl Strategy<Value = Format> {
        prop::sample::select(Format::ALL.to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_is_said_is_text_or_calls_and_nothing_is_said_twice(text in any_text(), format in any_format()) {
            let parsed = format.parse(&text, &["stock".to_owned()]);
            let mut end = 0;
            for range in &parsed.rest {
                prop_assert!(range.start >= end && range.end <= text.len());
                prop_assert!(text.is_char_boundary(range.start) && text.is_char_boundary(range.end));
                end = range.end;
            }
            let kept: String = parsed.rest.iter().map(|range| &text[range.clone()]).collect();
            if parsed.calls.is_empty() {
                prop_assert_eq!(&kept, &text);
            } else {
                prop_assert!(kept.len() < text.len());
            }
            for call in &parsed.calls {
                prop_assert!(!call.name.is_empty());
                let arguments: serde_json::Value = serde_json::from_str(&call.arguments).unwrap();
                prop_assert!(arguments.is_object());
            }
        }

        #[test]
        fn what_was_given_out_before_a_call_began_is_never_part_of_one(text in any_text(), format in any_format()) {
            let parsed = format.parse(&text, &["stock".to_owned()]);
            let first = parsed.rest.first().map_or(0, |range| if range.start == 0 { range.end } else { 0 });
            for (end, _) in text.char_indices() {
                let beginning = format.beginning(&text[..end]);
                prop_assert!(text.is_char_boundary(beginning));
                prop_assert!(parsed.calls.is_empty() || beginning <= first, "{} of {:?}", beginning, &text[..end]);
            }
        }

        #[test]
        fn text_without_a_mark_is_given_out_as_it_comes(text in "[a-zA-Z0-9 .,;:é]{0,40}", format in any_format()) {
            let whole = format.parse(&text, &["stock".to_owned()]);
            prop_assert!(whole.calls.is_empty());
            if !text.trim().is_empty() {
                prop_assert_eq!(format.beginning(&text), text.len());
            }
        }
    }
}
