//! `<|tool_call|>[{"name": …, "arguments": {…}}, …]`: Granite 3. Phi-4-mini writes a mark behind it too.

use super::{Found, json};

/// The mark before the calls.
pub(super) const BEGINNING: &str = "<|tool_call|>";
const END: &str = "<|/tool_call|>";

/// The calls after the mark, and how long they are.
pub(super) fn calls(text: &str) -> Found {
    let (value, length) = json::first(text)?;
    let calls = json::calls(&value)?;
    Some((
        calls,
        length + json::skip(&text[length..], END).unwrap_or(0),
    ))
}

#[cfg(test)]
mod tests {
    use crate::serve::tools::Format;

    #[test]
    fn a_list_after_the_mark_is_its_calls() {
        let said = "<|tool_call|>[{\"name\": \"stock\", \"arguments\": {\"a\": 1}}, {\"name\": \"now\", \"arguments\": {}}]";
        for end in ["", "<|/tool_call|>"] {
            let parsed = Format::Granite.parse(&format!("{said}{end}"), &[]);
            let names: Vec<&str> = parsed.calls.iter().map(|call| call.name.as_str()).collect();
            assert_eq!(names, ["stock", "now"]);
            assert_eq!(parsed.calls[0].arguments, "{\"a\":1}");
            assert!(parsed.rest.is_empty());
        }
    }

    #[test]
    fn what_is_cut_or_no_call_stays_text() {
        for said in [
            "<|tool_call|>[{\"name\": \"stock\"",
            "<|tool_call|>7",
            "[{\"name\": \"stock\", \"arguments\": {}}]",
        ] {
            let parsed = Format::Granite.parse(said, &[]);
            assert_eq!(parsed.calls, []);
            assert!(parsed.rest.len() == 1 && parsed.rest[0] == (0..said.len()));
        }
    }
}
