//! `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, once for each call: Qwen 2.5 and 3, Hermes, Granite 4; SmolLM 2 writes
//! a list between the marks.

use super::{Found, json};

/// The mark before a call.
pub(super) const BEGINNING: &str = "<tool_call>";
const END: &str = "</tool_call>";

/// The calls after the mark, and how long they are. The end of an answer may stand for the mark after them.
pub(super) fn calls(text: &str) -> Found {
    let (value, length) = json::first(text)?;
    let calls = json::calls(&value)?;
    let rest = &text[length..];
    if rest.trim().is_empty() {
        return Some((calls, text.len()));
    }
    Some((calls, length + json::skip(rest, END)?))
}

#[cfg(test)]
mod tests {
    use crate::serve::tools::Format;

    fn parse(text: &str) -> (Vec<(String, String)>, String) {
        let parsed = Format::Hermes.parse(text, &[]);
        let calls = parsed
            .calls
            .into_iter()
            .map(|call| (call.name, call.arguments));
        let rest = parsed.rest.into_iter().map(|range| &text[range]);
        (calls.collect(), rest.collect())
    }

    fn call(arguments: &str) -> (String, String) {
        ("stock".to_owned(), arguments.to_owned())
    }

    #[test]
    fn calls_between_marks_are_calls_and_what_stands_before_is_text() {
        let said = "Let me look.\n<tool_call>\n{\"name\": \"stock\", \"arguments\": {\"z\": 1, \"article\": \"lamp\"}}\n</tool_call>\n\
                    <tool_call>\n{\"name\": \"stock\", \"arguments\": {}}\n</tool_call>";
        let (calls, rest) = parse(said);
        assert_eq!(calls, [call("{\"z\":1,\"article\":\"lamp\"}"), call("{}")]);
        assert_eq!(rest.trim(), "Let me look.");
    }

    #[test]
    fn a_list_between_the_marks_and_a_last_mark_that_is_absent_are_calls_too() {
        let (calls, _) = parse("<tool_call>[{\"name\": \"stock\", \"arguments\": {}}]</tool_call>");
        assert_eq!(calls, [call("{}")]);
        let (calls, _) =
            parse("<tool_call>\n{\"name\": \"stock\", \"arguments\": \"{\\\"a\\\": 1}\"}\n");
        assert_eq!(calls, [call("{\"a\":1}")]);
    }

    #[test]
    fn what_is_cut_or_no_call_stays_text() {
        for said in [
            "<tool_call>\n{\"name\": \"stock\", \"argum",
            "<tool_call>nothing</tool_call>",
            "<tool_call>{\"name\": \"stock\", \"arguments\": 5}</tool_call>",
            "<tool_call>{\"arguments\": {}}</tool_call>",
            "<tool_call>[]</tool_call>",
            "a <tool_call",
        ] {
            assert_eq!(parse(said), (Vec::new(), said.to_owned()));
        }
    }

    #[test]
    fn text_is_given_out_until_a_call_may_begin() {
        for (said, beginning) in [
            ("a < b", 5),
            ("a <", 2),
            ("a <tool", 2),
            ("é<tool_call>{", 2),
            ("", 0),
        ] {
            assert_eq!(Format::Hermes.beginning(said), beginning, "{said}");
        }
    }
}
