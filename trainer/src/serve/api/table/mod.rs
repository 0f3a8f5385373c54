//! Every field of OpenAI's and vLLM's requests, and what this server does with it. A request is checked against the tables, and
//! the page of the API is made from them. Nothing that could change an answer is passed over in silence: what is not in the
//! tables is refused by name.

mod adapters;
mod chat;
mod completion;
mod kind;
#[cfg(test)]
mod page;
mod shared;

use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::ApiError;
use kind::{COUNT, Kind, shortened, shown};

/// The most characters of a value that a message repeats.
const SHOWN: usize = 80;

/// What is done with a field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    /// It is acted on.
    ActedOn,
    /// It cannot change the answer and is passed over.
    Harmless,
    /// Not supported; these values, as JSON, ask for nothing and are passed over.
    RefusedUnless(&'static [&'static str]),
    /// Not supported.
    Refused,
}

/// A field. A value of `null` is the same as no field.
#[derive(Clone, Copy, Debug)]
struct Field {
    name: &'static str,
    verdict: Verdict,
    kind: Kind,
    /// Whether the object must have it.
    required: bool,
    /// What it does, or why it is refused and what to do instead.
    says: &'static str,
    /// The fields of the object, or of each object of the list, that it holds; absent where that is the client's own.
    inside: Option<&'static Table>,
}

/// The fields that stand in one place.
#[derive(Debug)]
pub(crate) struct Table {
    /// Where.
    place: &'static str,
    fields: &'static [&'static [Field]],
    /// Fields that hold another kind of value in this place.
    other_kinds: &'static [(&'static str, Kind)],
    /// Fields that are none, and those that whoever sends them means.
    mistaken: &'static [(&'static str, &'static str)],
}

/// `POST /v1/chat/completions`.
pub(crate) static CHAT: Table = Table {
    place: "`POST /v1/chat/completions`",
    fields: &[chat::FIELDS, shared::FIELDS],
    other_kinds: &[("logprobs", Kind::Boolean)],
    mistaken: &[],
};
/// `POST /v1/completions`.
pub(crate) static COMPLETION: Table = Table {
    place: "`POST /v1/completions`",
    fields: &[completion::FIELDS, shared::FIELDS],
    other_kinds: &[("logprobs", COUNT)],
    mistaken: &[],
};
/// `POST /v1/load_lora_adapter`.
pub(crate) static LOAD_ADAPTER: Table =
    Table::new("`POST /v1/load_lora_adapter`", &[adapters::LOAD]);
/// `POST /v1/unload_lora_adapter`.
pub(crate) static UNLOAD_ADAPTER: Table =
    Table::new("`POST /v1/unload_lora_adapter`", &[adapters::UNLOAD]);

const fn acted_on(name: &'static str, says: &'static str) -> Field {
    Field {
        name,
        verdict: Verdict::ActedOn,
        kind: Kind::Any,
        required: false,
        says,
        inside: None,
    }
}

const fn harmless(name: &'static str, says: &'static str) -> Field {
    Field {
        verdict: Verdict::Harmless,
        ..acted_on(name, says)
    }
}

const fn refused(name: &'static str, says: &'static str) -> Field {
    Field {
        verdict: Verdict::Refused,
        ..acted_on(name, says)
    }
}

const fn unless(name: &'static str, neutral: &'static [&'static str], says: &'static str) -> Field {
    Field {
        verdict: Verdict::RefusedUnless(neutral),
        ..acted_on(name, says)
    }
}

impl Field {
    const fn of(self, inside: &'static Table) -> Self {
        Self {
            inside: Some(inside),
            kind: Kind::Object,
            ..self
        }
    }

    const fn is(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    const fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }
}

impl Table {
    const fn new(place: &'static str, fields: &'static [&'static [Field]]) -> Self {
        Self {
            place,
            fields,
            other_kinds: &[],
            mistaken: &[],
        }
    }

    const fn mistaken(self, mistaken: &'static [(&'static str, &'static str)]) -> Self {
        Self {
            place: self.place,
            fields: self.fields,
            other_kinds: self.other_kinds,
            mistaken,
        }
    }

    /// Refuses a request that is no object in JSON, and its first field that is of another kind than it must be, stands twice or
    /// is missing, or is not acted on and could change the answer.
    pub(crate) fn check(&self, request: &[u8]) -> Result<(), ApiError> {
        let text = std::str::from_utf8(request)
            .map_err(|error| ApiError::bad_request(format!("the body is not UTF-8: {error}")))?;
        let request: &RawValue = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        let request = request.get();
        if !Kind::Object.fits(request) {
            return Err(ApiError::bad_request(format!(
                "the body is {}, expected {}",
                shown(request),
                Kind::Object
            )));
        }
        self.check_value(request, "")
    }

    /// The fields of an object, or of each object of a list; of other values there are none.
    fn check_value(&self, value: &str, before: &str) -> Result<(), ApiError> {
        let mut deserializer = serde_json::Deserializer::from_str(value);
        let mut refused = None;
        let fields = Fields {
            table: self,
            before,
            refused: &mut refused,
        };
        let read = fields.deserialize(&mut deserializer);
        match (refused, read) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => Ok(()),
            (None, Err(error)) => Err(not_json(&error)),
        }
    }

    /// `met` are the fields before it in the same object.
    fn check_field(
        &self,
        name: &str,
        value: &str,
        before: &str,
        met: &mut Met,
    ) -> Result<(), ApiError> {
        let path = format!("{before}{name}");
        let field = self.find(name);
        if let Some(field) = field {
            if met.all.contains(&field.name) {
                let message = format!("`{path}` stands twice, expected once; leave one out");
                return Err(refusal(&path, message));
            }
            met.all.push(field.name);
            if value != "null" {
                met.with_value.push(field.name);
            }
        }
        if value == "null" {
            return Ok(());
        }
        let Some(field) = field else {
            // What is meant may stand behind it.
            if let Some(mistaken) = self.mistaken.iter().find(|(field, _)| *field == name) {
                met.mistaken.get_or_insert(*mistaken);
                return Ok(());
            }
            return Err(self.unknown(name, before, "leave it out"));
        };
        let other = self.other_kinds.iter().find(|(field, _)| *field == name);
        let kind = other.map_or(field.kind, |(_, kind)| *kind);
        field.check(kind, value, &path)
    }

    fn unknown(&self, name: &str, before: &str, cure: &str) -> ApiError {
        let path = format!("{before}{name}");
        let message = format!(
            "`{path}` is no field of {} that this server knows; {cure}",
            self.place
        );
        refusal(&path, message)
    }

    /// Refuses an object that has a field which is none in place of the one that is meant, or beside it.
    fn check_mistaken(&self, before: &str, met: &Met) -> Result<(), ApiError> {
        met.mistaken.map_or(Ok(()), |(name, meant)| {
            Err(if met.with_value.contains(&meant) {
                self.unknown(name, before, "leave it out")
            } else {
                self.unknown(
                    name,
                    before,
                    &format!("`{before}{meant}` is meant: rename it"),
                )
            })
        })
    }

    /// Refuses an object that lacks a field which it must have.
    fn check_missing(&self, before: &str, met: &Met) -> Result<(), ApiError> {
        let mut required = self.all().filter(|field| field.required);
        let missing = required.find(|field| !met.with_value.contains(&field.name));
        missing.map_or(Ok(()), |field| {
            let path = format!("{before}{}", field.name);
            let message = format!("`{path}` is missing, expected {}", field.kind);
            Err(refusal(&path, message))
        })
    }

    fn all(&self) -> impl Iterator<Item = &'static Field> + use<> {
        self.fields.iter().flat_map(|fields| fields.iter())
    }

    fn find(&self, name: &str) -> Option<&'static Field> {
        self.all().find(|field| field.name == name)
    }
}

/// The fields of an object that have been met.
#[derive(Default)]
struct Met {
    all: Vec<&'static str>,
    /// Those that are not `null`.
    with_value: Vec<&'static str>,
    /// The first that is none, and what is meant.
    mistaken: Option<(&'static str, &'static str)>,
}

/// Goes through the fields of a value where they stand, and keeps none of them.
struct Fields<'a> {
    table: &'a Table,
    before: &'a str,
    refused: &'a mut Option<ApiError>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut met = Met::default();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            if self.refused.is_none() {
                let value = value.get();
                let checked = self.table.check_field(&name, value, self.before, &mut met);
                *self.refused = checked.err();
            }
        }
        if self.refused.is_none() {
            let checked = self.table.check_mistaken(self.before, &met);
            let checked = checked.and_then(|()| self.table.check_missing(self.before, &met));
            *self.refused = checked.err();
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let place = self.before.trim_end_matches('.');
        let mut index = 0_usize;
        while let Some(item) = list.next_element::<&RawValue>()? {
            if self.refused.is_none() {
                let (item, path) = (item.get(), format!("{place}[{index}]"));
                let checked = match Kind::Object.check(item, &path) {
                    Ok(()) => self.table.check_value(item, &format!("{path}.")),
                    Err(message) => Err(refusal(&path, message)),
                };
                *self.refused = checked.err();
            }
            index += 1;
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

impl Field {
    fn check(&self, kind: Kind, value: &str, path: &str) -> Result<(), ApiError> {
        let neutral = match self.verdict {
            Verdict::ActedOn => {
                kind.check(value, path)
                    .map_err(|message| refusal(path, message))?;
                return self.inside.map_or(Ok(()), |table| {
                    table.check_value(value, &format!("{path}."))
                });
            }
            Verdict::Harmless => return Ok(()),
            Verdict::RefusedUnless(neutral) => neutral,
            Verdict::Refused => &[],
        };
        if neutral.iter().any(|neutral| same(neutral, value)) {
            return Ok(());
        }
        let cure = match neutral {
            [] => "leave it out".to_owned(),
            neutral => format!("leave it out or set it to {}", neutral.join(" or ")),
        };
        let (shown, says) = (shortened(value), self.says);
        let message =
            format!("`{path}` is {shown}, which this server does not support: {says}; {cure}");
        Err(refusal(path, message))
    }
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::bad_request(format!("the body is not JSON: {error}"))
}

/// An error whose `param` is the field of the request in which the path begins.
fn refusal(path: &str, message: String) -> ApiError {
    let name = path.split(['.', '[']).next().unwrap_or(path);
    ApiError::field(name, message)
}

/// Whether `value` is the JSON `neutral`; numbers by value, so that 1.0 is 1.
fn same(neutral: &str, value: &str) -> bool {
    // What asks for nothing is short.
    if value.len() > SHOWN {
        return false;
    }
    match (serde_json::from_str(neutral), serde_json::from_str(value)) {
        (Ok(Value::Number(neutral)), Ok(Value::Number(value))) => {
            neutral.as_f64() == value.as_f64()
        }
        (Ok(neutral), Ok(value)) => neutral == value,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rstest::rstest;

    use super::*;

    fn check(table: &Table, request: &str) -> Result<(), (String, String)> {
        table.check(request.as_bytes()).map_err(|error| {
            let body = error.body();
            let text = |key: &str| body["error"][key].as_str().unwrap().to_owned();
            (text("param"), text("message"))
        })
    }

    #[rstest]
    #[case(r#"{"n": 1, "presence_penalty": 0.0, "tools": [], "user": "me", "best_of": null}"#)]
    #[case(r#"{"response_format": {"type": "text"}, "logit_bias": {}, "made_up": null}"#)]
    #[case(r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}], "name": null}]}"#)]
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
            let body = table.check(request.as_bytes()).unwrap_err().body();
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.starts_with(words), "{message}");
            assert_eq!(body["error"]["param"], Value::Null);
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
}
