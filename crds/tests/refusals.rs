//! The table of refusals is whole: it has a row for each rule of the CRD, and each row says what the schema can say.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(rename = "good")]
    _good: Value,
    creations: Vec<Refusal>,
    changes: Vec<Refusal>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    mistake: String,
    name: Option<String>,
    patch: Option<Value>,
    api_server: Option<String>,
    by_hand: Option<String>,
    because: Option<String>,
}

impl Refusal {
    /// The beginning of a rule's message; `None` where the API server takes the job, or its schema refuses a field.
    fn rule(&self) -> Option<&str> {
        self.api_server.as_deref().filter(|said| said.contains(' '))
    }

    /// The field that the schema refuses.
    fn field(&self) -> Option<&str> {
        self.api_server
            .as_deref()
            .filter(|said| !said.contains(' '))
    }
}

fn refusals() -> Vec<Refusal> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refusals.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let table: Table = serde_saphyr::from_str(&text).unwrap();
    table.creations.into_iter().chain(table.changes).collect()
}

/// The messages of all rules below a schema.
fn messages(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(keywords) => {
            let rules = keywords.get("x-kubernetes-validations");
            for rule in rules.and_then(Value::as_array).into_iter().flatten() {
                found.push(rule["message"].as_str().unwrap().to_owned());
            }
            keywords.values().for_each(|each| messages(each, found));
        }
        Value::Array(items) => items.iter().for_each(|each| messages(each, found)),
        _ => {}
    }
}

fn rules() -> Vec<String> {
    let mut found = Vec::new();
    messages(&finetune_crds::schema::fine_tune_job(), &mut found);
    found
}

#[test]
fn each_rule_of_the_crd_has_a_row_that_breaks_it() {
    let refusals = refusals();
    let rules = rules();
    assert!(rules.len() > 30, "{} rules", rules.len());
    for rule in &rules {
        let breaks = |refusal: &Refusal| refusal.rule().is_some_and(|said| rule.starts_with(said));
        assert!(refusals.iter().any(breaks), "no row expects: {rule}");
    }
}

/// A job is planned once: what its spec says may not change under it.
#[test]
fn each_part_of_the_spec_has_a_rule_that_keeps_it() {
    let rules = rules();
    let schema = finetune_crds::schema::fine_tune_job();
    for part in schema["properties"]["spec"]["properties"]
        .as_object()
        .unwrap()
        .keys()
    {
        let keeps = format!("spec.{part} is immutable");
        assert!(
            rules.iter().any(|rule| rule.starts_with(&keeps)),
            "no rule says: {keeps}"
        );
    }
}

#[test]
fn each_row_that_expects_a_rule_expects_one_that_is_there() {
    let rules = rules();
    for refusal in refusals() {
        if let Some(said) = refusal.rule() {
            let count = rules.iter().filter(|rule| rule.starts_with(said)).count();
            assert_eq!(count, 1, "{}: {said}", refusal.mistake);
        }
    }
}

/// The schema of a field such as `spec.dataset.train[0].uri`.
fn schema_of<'a>(schema: &'a Value, field: &str) -> Option<&'a Value> {
    field.split('.').try_fold(schema, |schema, key| {
        let (key, is_item) = match key.split_once('[') {
            Some((key, _)) => (key, true),
            None => (key, false),
        };
        let schema = schema["properties"].get(key)?;
        if is_item {
            schema.get("items")
        } else {
            Some(schema)
        }
    })
}

#[test]
fn each_row_that_expects_a_field_expects_one_of_the_schema() {
    let schema = finetune_crds::schema::fine_tune_job();
    for refusal in refusals() {
        if let Some(field) = refusal.field() {
            let found = schema_of(&schema, field);
            assert!(found.is_some(), "{}: {field}", refusal.mistake);
        }
    }
}

#[test]
fn each_row_is_refused_by_one_side_and_says_why_not_by_the_other() {
    let mut seen = HashSet::new();
    for refusal in refusals() {
        let mistake = &refusal.mistake;
        assert!(seen.insert(mistake.clone()), "{mistake} stands there twice");
        assert!(
            refusal.name.is_some() || refusal.patch.is_some(),
            "{mistake} changes nothing"
        );
        let sides = [&refusal.api_server, &refusal.by_hand];
        let count = sides.into_iter().flatten().count();
        assert_eq!(
            (count > 0, refusal.because.is_some()),
            (true, count == 1),
            "{mistake}"
        );
    }
}
