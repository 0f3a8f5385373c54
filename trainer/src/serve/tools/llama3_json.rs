//! `{"name": …, "parameters": {…}}` as the whole answer, several separated by `; `: Llama 3. Nothing marks it, so that only an
//! answer that calls functions which the request names, and says nothing else, is a call.

use super::{Call, Parsed, json};

/// What may stand before the first call.
const BEGINNING: &str = "<|python_tag|>";

/// Where a call begins or may begin: at the start of the answer or nowhere.
pub(super) fn beginning(text: &str) -> usize {
    let said = text.trim_start();
    if said.starts_with('{') || said.starts_with(BEGINNING) || BEGINNING.starts_with(said) {
        0
    } else {
        text.len()
    }
}

/// The calls, if the answer is nothing else.
pub(super) fn parse(text: &str, functions: &[String]) -> Parsed {
    match calls(text, functions) {
        Some(calls) => Parsed {
            calls,
            rest: Vec::new(),
        },
        None => Parsed {
            calls: Vec::new(),
            rest: std::iter::once(0..text.len())
                .filter(|range| !range.is_empty())
                .collect(),
        },
    }
}

fn calls(text: &str, functions: &[String]) -> Option<Vec<Call>> {
    let said = text.trim();
    let mut said = said.strip_prefix(BEGINNING).unwrap_or(said);
    let mut calls = Vec::new();
    loop {
        let (value, length) = json::first(said)?;
        let call = json::call(&value, &["parameters", "arguments"])?;
        calls.push(Some(call).filter(|call| functions.contains(&call.name))?);
        said = said[length..].trim_start();
        if said.is_empty() {
            return Some(calls);
        }
        said = said.strip_prefix(';')?;
    }
}

#[cfg(test)]
mod tests {
    use crate::serve::tools::Format;

    fn calls(text: &str) -> Vec<String> {
        let parsed = Format::Llama3Json.parse(text, &["stock".to_owned()]);
        assert_eq!(parsed.rest.is_empty(), !parsed.calls.is_empty());
        parsed
            .calls
            .into_iter()
            .map(|call| call.arguments)
            .collect()
    }

    #[test]
    fn an_answer_that_is_calls_alone_is_calls() {
        assert_eq!(
            calls("{\"name\": \"stock\", \"parameters\": {\"a\": 1}}"),
            ["{\"a\":1}"]
        );
        assert_eq!(
            calls(
                "<|python_tag|>{\"type\": \"function\", \"name\": \"stock\", \"parameters\": {}}; {\"name\": \"stock\", \"arguments\": {\"b\": 2}}\n"
            ),
            ["{}", "{\"b\":2}"]
        );
    }

    #[test]
    fn other_json_other_functions_and_text_around_a_call_are_text() {
        for said in [
            "{\"name\": \"Ada\", \"parameters\": {\"born\": 1815}}",
            "{\"a\": 1}",
            "{\"name\": \"stock\", \"parameters\": {}} is how it is called",
            "It is {\"name\": \"stock\", \"parameters\": {}}",
            "{\"name\": \"stock\"}",
            "{\"name\": \"stock\", \"param",
        ] {
            assert_eq!(calls(said), [] as [String; 0], "{said}");
        }
    }

    #[test]
    fn text_that_does_not_begin_like_a_call_is_given_out_at_once() {
        for (said, beginning) in [
            ("It", 2),
            (" {", 0),
            ("", 0),
            ("<|py", 0),
            ("<b", 2),
            ("\n", 0),
        ] {
            assert_eq!(Format::Llama3Json.beginning(said), beginning, "{said}");
        }
    }
}
