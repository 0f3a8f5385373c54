//! What the tables let pass, and in which words they refuse the rest.

use std::collections::BTreeSet;

use rstest::rstest;
use serde_json::Value;

use super::field::{Field, Verdict};
use super::*;

fn check(table: &Table, request: &str) -> Result<(), (String, String)> {
    table.check(request.as_bytes()).map_err(|error| {
        let field = error.param().unwrap_or_default().to_owned();
        (field, error.to_string())
    })
}

#[rstest]
#[case(r#"{"n": 1, "presence_penalty": 0.0, "tools": [], "user": "me", "best_of": null}"#)]
#[case(r#"{"response_format": {"type": "text"}, "logit_bias": {}, "made_up": null}"#)]
#[case(
    r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}], "name": null}]}"#
)]
#[case(r#" {"seed": -9223372036854775808, "stop": ["a", "b"], "stop_token_ids": [], "top_p": 1, "logprobs": true} "#)]
#[case(r#"{"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "x-own": 1}}}]}"#)]
fn what_is_acted_on_or_cannot_change_the_answer_passes(#[case] request: &str) {
    check(&CHAT, request).unwrap();
}

#[rstest]
#[case(r#"{"n": 2}"#, "n", "leave it out or set it to 1")]
#[case(
    r#"{"guided_json": {"type": "object"}}"#,
    "guided_json",
    r#"`guided_json` is {"type": "object"}"#
)]
#[case(
    r#"{"made_up": 0}"#,
    "made_up",
    "`made_up` is no field of `POST /v1/chat/completions`"
)]
#[case(
    r#"{"response_format": {"type": "json_object"}}"#,
    "response_format",
    "`response_format.type`"
)]
#[case(
    r#"{"messages": [{"role": "user"}, {"weight": 0}]}"#,
    "messages",
    "`messages[1].weight` is no field of `messages`"
)]
#[case(
    r#"{"messages": [{"content": [{"type": "text", "cache": 1}]}]}"#,
    "messages",
    "`messages[0].content[0].cache`"
)]
#[case(
    r#"{"tools": [{"function": {"strict": true}}]}"#,
    "tools",
    "`tools[0].function.strict` is true"
)]
#[case(
    r#"{"stream_options": {"made_up": 1}}"#,
    "stream_options",
    "`stream_options.made_up`"
)]
#[case(
    r#"{"tool_choice": "required"}"#,
    "tool_choice",
    r#"set it to "auto" or "none""#
)]
fn what_would_change_the_answer_or_is_not_known_is_refused_by_name(
    #[case] request: &str,
    #[case] field: &str,
    #[case] words: &str,
) {
    let (name, message) = check(&CHAT, request).unwrap_err();
    assert_eq!(name, field);
    assert!(message.contains(words), "{message}");
}

#[rstest]
#[case::number(
    "max_tokens",
    "-1",
    "`max_tokens` is -1, expected a whole number from 0 to 4294967295"
)]
#[case::fraction("max_tokens", "1.5", "`max_tokens` is 1.5, expected a whole number")]
#[case::other_zero("seed", "-0", "`seed` is -0, expected a whole number")]
#[case::large(
    "seed",
    "9223372036854775808",
    "`seed` is 9223372036854775808, expected a whole number from -9223372036854775808 to 9223372036854775807"
)]
#[case::text(
    "temperature",
    "\"hot\"",
    "`temperature` is \"hot\", expected a number"
)]
#[case::endless("temperature", "1e999", "`temperature` is 1e999, expected a number")]
#[case::flag("stream", "1", "`stream` is 1, expected true or false")]
#[case::of_chats("logprobs", "3", "`logprobs` is 3, expected true or false")]
#[case::object(
    "stream_options",
    "[true]",
    "`stream_options` is a list, expected an object"
)]
#[case::inside(
    "stream_options",
    "{\"include_usage\": 1}",
    "`stream_options.include_usage` is 1, expected true or false"
)]
#[case::list("messages", "\"x\"", "`messages` is \"x\", expected a list of objects")]
#[case::item(
    "messages",
    "[[\"user\", \"x\"]]",
    "`messages[0]` is a list, expected an object"
)]
#[case::nothing("messages", "[null]", "`messages[0]` is null, expected an object")]
#[case::part(
    "messages",
    "[{\"role\": \"user\", \"content\": [[\"text\", \"x\"]]}]",
    "`messages[0].content[0]` is a list, expected an object"
)]
#[case::missing(
    "messages",
    "[{\"role\": null, \"content\": \"x\"}]",
    "`messages[0].role` is missing, expected a string"
)]
#[case::stop("stop", "[\"a\", 1]", "`stop[1]` is 1, expected a string")]
#[case::token(
    "stop_token_ids",
    "[1, -1]",
    "`stop_token_ids[1]` is -1, expected a whole number from 0 to 4294967295"
)]
#[case::tools("tools", "[[]]", "`tools[0]` is a list, expected an object")]
#[case::twice(
    "model",
    "\"a\", \"model\": \"b\"",
    "`model` stands twice, expected once"
)]
fn what_is_not_of_the_kind_of_its_field_is_refused_in_words_of_json(
    #[case] field: &str,
    #[case] value: &str,
    #[case] words: &str,
) {
    let request = format!("{{\"{field}\": {value}}}");
    let (name, message) = check(&CHAT, &request).unwrap_err();
    assert_eq!(name, field);
    assert!(message.starts_with(words), "{message}");
}

#[rstest]
#[case("[]", "the body is a list, expected an object")]
#[case("[[[[", "the body is not JSON")]
#[case("{\"a\":", "the body is not JSON")]
#[case("{} {}", "the body is not JSON")]
#[case("", "the body is not JSON")]
#[case("null", "the body is null, expected an object")]
fn a_body_that_is_no_object_is_refused_as_a_whole(#[case] request: &str, #[case] words: &str) {
    for table in [&CHAT, &COMPLETION, &LOAD_ADAPTER, &UNLOAD_ADAPTER] {
        let error = table.check(request.as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with(words), "{error}");
        assert_eq!(error.param(), None);
    }
}

#[rstest]
#[case::in_its_place(
    r#"{"role": "user", "text": "hi"}"#,
    "`messages[0].text` is no field of `messages` that this server knows; `messages[0].content` is meant: rename it"
)]
#[case::beside_it(
    r#"{"text": "hi", "role": "user", "content": "ho"}"#,
    "`messages[0].text` is no field of `messages` that this server knows; leave it out"
)]
#[case::beside_nothing(
    r#"{"content": null, "role": "user", "text": "hi"}"#,
    "`messages[0].text` is no field of `messages` that this server knows; `messages[0].content` is meant: rename it"
)]
#[case::in_place_of_the_role(
    r#"{"from": "user", "value": "hi"}"#,
    "`messages[0].from` is no field of `messages` that this server knows; `messages[0].role` is meant: rename it"
)]
fn a_field_that_stands_for_another_is_refused_with_the_one_that_is_meant(
    #[case] message: &str,
    #[case] expected: &str,
) {
    let request = format!(r#"{{"messages": [{message}]}}"#);
    let (field, found) = check(&CHAT, &request).unwrap_err();
    assert_eq!((field.as_str(), found.as_str()), ("messages", expected));
}

#[test]
fn a_long_value_is_not_repeated_in_full() {
    let request = format!(r#"{{"suffix": "{}"}}"#, "é".repeat(10_000));
    let (_, message) = check(&COMPLETION, &request).unwrap_err();
    assert!(message.len() < 400 && message.contains('…'), "{message}");
}

#[test]
fn a_field_stands_in_a_table_once_and_its_neutral_values_are_json() {
    fn walk(table: &Table) {
        let fields: Vec<&Field> = table
            .fields
            .iter()
            .flat_map(|fields| fields.iter())
            .collect();
        let names: BTreeSet<&str> = fields.iter().map(|field| field.name).collect();
        assert_eq!(names.len(), fields.len(), "{}", table.place);
        for field in fields {
            if let Verdict::RefusedUnless(neutral) = field.verdict {
                assert!(!neutral.is_empty(), "{}", field.name);
                for neutral in neutral {
                    serde_json::from_str::<Value>(neutral).unwrap();
                }
            }
            assert!(!field.says.is_empty(), "{}", field.name);
            let objects = [Kind::Object, Kind::Objects, Kind::TextOrObjects];
            let holds_objects = objects.contains(&field.kind);
            assert!(field.inside.is_none() || holds_objects, "{}", field.name);
            field.inside.into_iter().for_each(walk);
        }
    }
    for table in [&CHAT, &COMPLETION, &LOAD_ADAPTER, &UNLOAD_ADAPTER] {
        walk(table);
    }
}
