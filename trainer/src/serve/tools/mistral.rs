//! `[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`, and the later form `[TOOL_CALLS]name[ARGS]{…}`, once for each call, in which
//! `[CALL_ID]` and a name of the call may stand before the arguments: Mistral. Without `[ARGS]` any word before an object looks like
//! a call, so that only functions which the request names are called that way.

use super::{Call, Found, json};

/// The mark before calls.
pub(super) const BEGINNING: &str = "[TOOL_CALLS]";
const ID: &str = "[CALL_ID]";
const ARGUMENTS: &str = "[ARGS]";

/// The calls after the mark, and how long they are. `functions` are the names that may be called.
pub(super) fn calls(text: &str, functions: &[String]) -> Found {
    if let Some((value, length)) = json::first(text) {
        return Some((json::calls(&value)?, length));
    }
    named(text, functions)
}

/// A name, then an object.
fn named(text: &str, functions: &[String]) -> Found {
    let before = text.find('{')?;
    let head = text[..before].trim_end();
    let marked = head.strip_suffix(ARGUMENTS);
    let head = marked.unwrap_or(head);
    let name = head.split(ID).next().unwrap_or(head).trim();
    let is_name = |character: char| character.is_alphanumeric() || "_-.".contains(character);
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    if marked.is_none() && !functions.iter().any(|function| function == name) {
        return None;
    }
    let (arguments, length) = json::first(&text[before..])?;
    arguments.as_object()?;
    let call = Call {
        name: name.to_owned(),
        arguments: arguments.to_text(),
    };
    Some((vec![call], before + length))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use crate::serve::tools::Format;

    #[rstest]
    #[case::list(
        "[TOOL_CALLS] [{\"name\": \"stock\", \"arguments\": {\"a\": 1}, \"id\": \"abcdefghi\"}, {\"name\": \"stock\", \"arguments\": {\"a\": 1}}]"
    )]
    #[case::named(
        "[TOOL_CALLS]stock[ARGS]{\"a\": 1}[TOOL_CALLS]stock[CALL_ID]abcdefghi[ARGS]{\"a\": 1}"
    )]
    #[case::bare("[TOOL_CALLS]stock{\"a\": 1}[TOOL_CALLS] stock {\"a\": 1}")]
    fn every_form_of_two_calls_is_read(#[case] said: &str) {
        let parsed = Format::Mistral.parse(said, &["stock".to_owned()]);
        let calls = parsed
            .calls
            .iter()
            .map(|call| (call.name.as_str(), call.arguments.as_str()));
        assert_eq!(calls.collect::<Vec<_>>(), [("stock", "{\"a\":1}"); 2]);
        assert!(parsed.rest.is_empty());
    }

    #[test]
    fn a_word_before_an_object_is_a_call_only_where_the_request_names_such_a_function() {
        let said = "[TOOL_CALLS] see {\"a\": 1}";
        let names = |functions: &[String]| -> Vec<String> {
            let parsed = Format::Mistral.parse(said, functions);
            parsed.calls.into_iter().map(|call| call.name).collect()
        };
        assert_eq!(names(&["stock".to_owned()]), [] as [String; 0]);
        assert_eq!(names(&[]), [] as [String; 0]);
        assert_eq!(names(&["stock".to_owned(), "see".to_owned()]), ["see"]);
    }

    #[test]
    fn what_is_cut_or_no_call_stays_text() {
        for said in [
            "[TOOL_CALLS] [{\"name\"",
            "[TOOL_CALLS] see {\"a\": 1",
            "[TOOL_CALLS] see {\"a\": 1}",
            "[TOOL_CALLS] stock {\"a\": 1",
            "[TOOL_CALLS] as in: {}",
            "[TOOL_CALLS]",
            "[TOOL",
        ] {
            let parsed = Format::Mistral.parse(said, &["stock".to_owned()]);
            assert_eq!(parsed.calls, [], "{said}");
            assert!(parsed.rest.len() == 1 && parsed.rest[0] == (0..said.len()));
        }
    }
}
