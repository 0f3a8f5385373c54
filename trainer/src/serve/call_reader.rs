//! Takes calls out of an answer while it comes: what is certainly no call goes on at once, the rest waits for the end. So a
//! stream and a whole answer hold the same.

use super::token_text::TokenText;
use super::tools::{Call, Format};

/// Reads the calls of one answer.
#[derive(Debug)]
pub(super) struct CallReader {
    format: Format,
    /// The functions that may be called.
    functions: Vec<String>,
    /// Whether several calls are one too many.
    first_only: bool,
    held: TokenText,
    /// Whether a part of the answer has gone on.
    begun: bool,
}

/// A call with a name of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct NamedCall {
    /// The name of the call.
    pub(super) id: String,
    /// The call.
    pub(super) call: Call,
}

impl CallReader {
    /// A reader of calls in a format.
    pub(super) fn new(format: Format, functions: Vec<String>, first_only: bool) -> Self {
        Self {
            format,
            functions,
            first_only,
            held: TokenText::default(),
            begun: false,
        }
    }

    /// More of the answer; what is certainly no call comes back. White space waits too: before a call it is none of the text.
    pub(super) fn push(&mut self, text: &TokenText) -> String {
        self.held.append(text);
        let held = self.held.all();
        let certain = match self.may_call() {
            true => self.format.beginning(held),
            false => held.len(),
        };
        let certain = held[..certain].trim_end().len();
        self.begun |= certain > 0;
        let given = self.held.take(certain);
        given.seen(0..certain)
    }

    /// The rest of the text, and the calls.
    pub(super) fn finish(&mut self) -> (String, Vec<NamedCall>) {
        let held = self.held.take_all();
        let parsed = match self.may_call() {
            true => self.format.parse(held.all(), &self.functions),
            false => super::tools::Parsed::default(),
        };
        if parsed.calls.is_empty() {
            return (held.seen(0..held.all().len()), Vec::new());
        }
        let rest: String = parsed
            .rest
            .into_iter()
            .map(|range| held.seen(range))
            .collect();
        let most = if self.first_only { 1 } else { usize::MAX };
        let calls = parsed.calls.into_iter().take(most);
        let named = calls.map(|call| NamedCall {
            id: self.format.new_id(),
            call,
        });
        (rest.trim_end().to_owned(), named.collect())
    }

    /// Whether what is still to come may be a call.
    fn may_call(&self) -> bool {
        !self.begun || self.format.calls_within_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        format: Format,
        first_only: bool,
        pieces: &[(&str, bool)],
    ) -> (Vec<String>, String, Vec<Call>) {
        let mut reader = CallReader::new(format, vec!["stock".to_owned()], first_only);
        let push = |(text, seen): &(&str, bool)| {
            let mut piece = TokenText::default();
            piece.push(text, *seen);
            reader.push(&piece)
        };
        let given = pieces.iter().map(push).collect();
        let (rest, calls) = reader.finish();
        (
            given,
            rest,
            calls.into_iter().map(|named| named.call).collect(),
        )
    }

    const CALL: &str = "{\"name\": \"stock\", \"arguments\": {}}";

    #[test]
    fn text_goes_on_until_a_call_begins_and_the_call_comes_at_the_end() {
        let pieces = [
            ("Let me", true),
            (" look.\n", true),
            ("<tool_call>", false),
            (CALL, true),
            ("</tool_call>", false),
            ("\n", true),
        ];
        let (given, rest, calls) = read(Format::Hermes, false, &pieces);
        assert_eq!(given, ["Let me", " look.", "", "", "", ""]);
        assert_eq!((rest.as_str(), calls.len()), ("", 1));
    }

    #[test]
    fn what_is_no_call_in_the_end_is_text_without_its_special_tokens() {
        let (given, rest, calls) = read(
            Format::Granite,
            false,
            &[("a <", true), ("<|tool_call|>", false), ("no", true)],
        );
        assert_eq!(given, ["a", " <", ""]);
        assert_eq!((rest.as_str(), calls.len()), ("no", 0));
    }

    #[test]
    fn an_answer_that_has_begun_as_text_is_no_call_of_a_form_without_marks() {
        let (given, rest, calls) =
            read(Format::Llama3Json, false, &[("It is ", true), (CALL, true)]);
        assert_eq!(given.concat() + &rest, format!("It is {CALL}"));
        assert_eq!(calls, []);
    }

    #[test]
    fn only_the_first_call_is_given_where_one_is_wanted() {
        let two = format!("<tool_call>{CALL}</tool_call>").repeat(2);
        assert_eq!(read(Format::Hermes, true, &[(&two, true)]).2.len(), 1);
        assert_eq!(read(Format::Hermes, false, &[(&two, true)]).2.len(), 2);
    }
}
