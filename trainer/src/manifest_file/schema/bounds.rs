//! Holds the values of a spec against the bounds of the schema: of numbers, of the lengths of texts, of the counts of lists and maps,
//! and of what a text looks like. What the API server would refuse is refused, and nothing else.
//!
//! A length is counted in Unicode code points, and patterns are such that Go's regular expressions and ours read them alike. Both
//! match in time linear in the text.

use std::collections::HashMap;

use finetune_crds::{patterns, uris};
use regex::Regex;
use serde_json::{Map, Number, Value};

use super::range::Range;
use crate::validate::{Fault, cut};

/// All values that are out of bounds, in a spec that has the types of the schema.
///
/// Of a spec that `is_stored` in a cluster, texts are passed over: the API server, too, looks at one only when it is written, so a job
/// whose URI is longer than new ones may be still runs.
pub(in super::super) fn out_of_bounds(spec: &Value, is_stored: bool) -> Vec<Fault> {
    let schema = finetune_crds::schema::fine_tune_job();
    faults_of(&schema["properties"]["spec"], spec, is_stored)
}

pub(super) fn faults_of(schema: &Value, spec: &Value, is_stored: bool) -> Vec<Fault> {
    let mut walk = Walk {
        is_stored,
        compiled: HashMap::new(),
        faults: Vec::new(),
    };
    walk.hold(schema, spec, "spec");
    walk.faults
}

struct Walk<'a> {
    is_stored: bool,
    /// The patterns that were met; 192 sources have one.
    compiled: HashMap<&'a str, Option<Regex>>,
    faults: Vec<Fault>,
}

impl<'a> Walk<'a> {
    fn hold(&mut self, schema: &'a Value, value: &Value, path: &str) {
        let message = match value {
            Value::Number(number) => wrong_number(schema, number),
            Value::String(text) if !self.is_stored => self.wrong_text(schema, text),
            Value::Array(items) => wrong_items(schema, items, path),
            Value::Object(fields) => wrong_count(Range::of_entries(schema), fields.len(), path),
            _ => None,
        };
        self.faults
            .extend(message.map(|message| Fault::new(path, message)));
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.hold(&schema["items"], item, &format!("{path}[{index}]"));
                }
            }
            Value::Object(fields) => self.hold_fields(schema, fields, path),
            _ => {}
        }
    }

    fn hold_fields(&mut self, schema: &'a Value, fields: &Map<String, Value>, path: &str) {
        for (key, value) in fields {
            let known = schema["properties"].get(key);
            let schema = known.unwrap_or(&schema["additionalProperties"]);
            self.hold(schema, value, &format!("{path}.{key}"));
        }
    }

    fn wrong_text(&mut self, schema: &'a Value, text: &str) -> Option<String> {
        let pattern = schema["pattern"].as_str();
        let is_uri = pattern.is_some_and(|pattern| uris::OF_A_JOB.contains(&pattern));
        if is_uri && text.starts_with("file://") {
            return None;
        }
        let lengths = Range::of_lengths(schema);
        let count = text.chars().count();
        // An address with a signature in it may be longer than what a cluster stores.
        let may_be_long = is_uri && text.starts_with("https://");
        if !lengths.has_count(count) && !may_be_long {
            return Some(match count {
                0 => format!("is empty, expected {lengths} characters"),
                _ => format!("has {count} characters, expected {lengths}"),
            });
        }
        let pattern = pattern?;
        let regex = self
            .compiled
            .entry(pattern)
            .or_insert_with(|| Regex::new(pattern).ok());
        if regex.as_ref().is_none_or(|regex| regex.is_match(text)) {
            return None;
        }
        let shown = cut(text);
        let shown = shown.escape_debug();
        Some(match patterns::in_words(pattern) {
            Some(words) => format!("is `{shown}`, expected {words}"),
            None => format!("is `{shown}`, expected a match of {pattern}"),
        })
    }
}

fn wrong_number(schema: &Value, number: &Number) -> Option<String> {
    let range = Range::of_values(schema);
    if range.has(number.as_f64()?) {
        return None;
    }
    let shown = number.to_string();
    let shown = shown.strip_suffix(".0").unwrap_or(&shown);
    Some(format!("is {shown}, expected {range}"))
}

fn wrong_items(schema: &Value, items: &[Value], path: &str) -> Option<String> {
    wrong_count(Range::of_items(schema), items.len(), path).or_else(|| {
        if schema["x-kubernetes-list-type"] != "set" {
            return None;
        }
        let is_repeated = |(index, item): &(usize, &Value)| items[..*index].contains(item);
        let (_, item) = items.iter().enumerate().find(is_repeated)?;
        let shown = item
            .as_str()
            .map_or_else(|| item.to_string(), str::to_owned);
        Some(format!(
            "has {} twice, expected each once: remove one",
            cut(&shown)
        ))
    })
}

fn wrong_count(range: Range, count: usize, path: &str) -> Option<String> {
    let things = things(path);
    (!range.has_count(count)).then(|| format!("has {count} {things}, expected {range}"))
}

/// What a list or a map holds, in a word.
fn things(path: &str) -> &'static str {
    let field = path.rsplit('.').next().unwrap_or(path);
    match field {
        "train" | "sources" => "sources",
        "targetModules" => "modules",
        "rankPattern" | "alphaPattern" => "patterns",
        "engines" => "engines",
        "tolerations" => "tolerations",
        "nodeSelector" => "labels",
        "limits" | "requests" => "quantities",
        _ => "items",
    }
}
