//! At its bounds each kind of value is taken, beyond them refused, and the schema asks nothing that is not looked at.

use rstest::rstest;
use serde_json::json;

use super::bounds::faults_of;
use super::*;

fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let faults = faults_of(schema, value, false);
    faults.iter().map(Fault::to_string).collect()
}

#[rstest]
#[case::of_a_number(json!({ "minimum": 0.0, "maximum": 0.9 }), json!([0, 0.0, 0.9]), json!([-1, 0.95]), "0 to 0.9")]
#[case::of_a_whole_number(json!({ "minimum": 1.0, "maximum": 4_294_967_295.0 }), json!([1, 4_294_967_295_u32]), json!([0, 4_294_967_296_u64, u64::MAX]), "1 to 4294967295")]
#[case::without_the_least(json!({ "minimum": 0.0, "exclusiveMinimum": true, "maximum": 10.0 }), json!([1e-300, 10]), json!([0, -0.0, 11]), "more than 0 and at most 10")]
#[case::without_the_most(json!({ "minimum": 0.0, "exclusiveMaximum": true, "maximum": 1.0 }), json!([0, 0.999]), json!([1, 1.0]), "at least 0 and less than 1")]
#[case::below_alone(json!({ "minimum": 2.0 }), json!([2, 1e300]), json!([1]), "at least 2")]
#[case::above_alone(json!({ "maximum": 2.0 }), json!([2, -1e300]), json!([3]), "at most 2")]
fn a_number_may_be_its_bound_and_no_more(
    #[case] schema: Value,
    #[case] good: Value,
    #[case] bad: Value,
    #[case] expected: &str,
) {
    for value in good.as_array().unwrap() {
        assert!(faults(&schema, value).is_empty(), "{value}");
    }
    for value in bad.as_array().unwrap() {
        let found = faults(&schema, value);
        let shown = value.to_string();
        let shown = shown.trim_end_matches(".0");
        assert_eq!(found, [format!("spec is {shown}, expected {expected}")]);
    }
}

#[rstest]
#[case::empty("", Some("spec is empty, expected 1 to 3 characters"))]
#[case::one_character("a", None)]
#[case::three_characters_of_more_bytes("äßü", None)]
#[case::four_characters("abcd", Some("spec has 4 characters, expected 1 to 3"))]
fn a_text_is_counted_in_characters(#[case] text: &str, #[case] expected: Option<&str>) {
    let schema = json!({ "minLength": 1, "maxLength": 3 });
    let found = faults(&schema, &json!(text));
    assert_eq!(found.first().map(String::as_str), expected);
}

#[rstest]
#[case(json!(["a"]), None)]
#[case(json!(["a", "b"]), None)]
#[case(json!([]), Some("spec.train has 0 sources, expected 1 to 2"))]
#[case(json!(["a", "b", "c"]), Some("spec.train has 3 sources, expected 1 to 2"))]
#[case(json!(["a", "a"]), Some("spec.train has a twice, expected each once: remove one"))]
fn a_list_is_held_to_its_count_and_a_set_to_one_of_each(
    #[case] items: Value,
    #[case] expected: Option<&str>,
) {
    let list = json!({ "minItems": 1, "maxItems": 2, "x-kubernetes-list-type": "set" });
    let schema = json!({ "properties": { "train": list } });
    let found = faults(&schema, &json!({ "train": items }));
    assert_eq!(found.first().map(String::as_str), expected);
}

#[test]
fn a_map_is_held_to_its_count_and_each_value_to_its_bounds() {
    let ranks = json!({ "maxProperties": 1, "additionalProperties": { "maximum": 8.0 } });
    let schema = json!({ "properties": { "rankPattern": ranks } });
    assert_eq!(
        faults(&schema, &json!({ "rankPattern": { "a": 8, "b": 9 } })),
        [
            "spec.rankPattern has 2 patterns, expected at most 1",
            "spec.rankPattern.b is 9, expected at most 8",
        ]
    );
}

#[test]
fn each_item_of_a_list_is_held_to_its_bounds() {
    let schema = json!({ "items": { "maxLength": 1 } });
    assert_eq!(
        faults(&schema, &json!(["a", "bc"])),
        ["spec[1] has 2 characters, expected at most 1"]
    );
}

fn of_job(path: &str) -> Value {
    let schema = finetune_crds::schema::fine_tune_job();
    schema.pointer(path).unwrap().clone()
}

const BASE: &str = "/properties/spec/properties/baseModel/properties/uri";
const LIMIT: &str = "/properties/spec/properties/placement/properties/resources/properties/limits/additionalProperties";

#[rstest]
#[case::line_break("s3://models/a\n", true)]
#[case::whole_bucket("s3://models/", true)]
#[case::folder("s3://models/a/", false)]
#[case::long_file(&format!("file:///{}", "a".repeat(2_000)), false)]
#[case::signed(&format!("https://models.example/a.gguf?signature={}", "a".repeat(2_000)), false)]
#[case::long_key(&format!("s3://models/{}", "a".repeat(2_000)), true)]
fn a_uri_is_what_a_pod_can_read_or_a_file(#[case] uri: &str, #[case] is_refused: bool) {
    let found = faults(&of_job(BASE), &json!(uri));
    assert_eq!(!found.is_empty(), is_refused, "{found:?}");
}

#[rstest]
#[case(json!(2), None)]
#[case(json!("2500m"), None)]
#[case(json!("3 GiB"), Some("spec is `3 GiB`, expected a quantity, such as 2, 500m or 3Gi"))]
fn a_quantity_is_a_whole_number_or_a_text_with_a_unit(
    #[case] value: Value,
    #[case] expected: Option<&str>,
) {
    let found = faults(&of_job(LIMIT), &value);
    assert_eq!(found.first().map(String::as_str), expected);
}

#[test]
fn of_a_stored_spec_numbers_and_counts_are_asked_and_texts_passed_over() {
    let schema = json!({
        "properties": {
            "text": { "maxLength": 1, "pattern": "^a$" },
            "number": { "maximum": 1.0 },
            "list": { "maxItems": 1 },
        }
    });
    let spec = json!({ "text": "bb", "number": 2, "list": [1, 2] });
    let fields = |is_stored| -> Vec<String> {
        let faults = faults_of(&schema, &spec, is_stored);
        faults.into_iter().map(|fault| fault.field).collect()
    };
    assert_eq!(fields(true), ["spec.list", "spec.number"]);
    assert_eq!(fields(false), ["spec.list", "spec.number", "spec.text"]);
}

/// Calls `look` with every schema below this one.
fn each_schema(schema: &Value, look: &mut impl FnMut(&Map<String, Value>)) {
    let Some(keywords) = schema.as_object() else {
        return;
    };
    look(keywords);
    each_schema(&schema["items"], look);
    each_schema(&schema["additionalProperties"], look);
    for field in schema["properties"].as_object().into_iter().flatten() {
        each_schema(field.1, look);
    }
}

#[test]
fn every_keyword_of_the_schema_is_acted_on_here_or_asks_nothing_of_a_value() {
    let acted_on = [
        "type",
        "properties",
        "additionalProperties",
        "items",
        "required",
        "enum",
        "nullable",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "pattern",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-type",
    ];
    // Rules across fields are `validate`'s; `anyOf` says again that a value may be a number or a text.
    let passed_over = [
        "description",
        "default",
        "format",
        "anyOf",
        "x-kubernetes-validations",
    ];
    each_schema(&of_job("/properties/spec"), &mut |keywords| {
        for keyword in keywords.keys().map(String::as_str) {
            assert!(
                acted_on.contains(&keyword) || passed_over.contains(&keyword),
                "{keyword}"
            );
        }
    });
}

/// Go's regular expressions, which the API server has, and ours differ in classes such as `\d`, in flags, in operations between sets,
/// and in how often a part may be repeated: Go takes 1000 times.
#[test]
fn each_pattern_is_written_so_that_the_api_server_and_we_read_it_alike() {
    let mut count = 0;
    each_schema(&of_job("/properties/spec"), &mut |keywords| {
        let Some(pattern) = keywords.get("pattern").and_then(Value::as_str) else {
            return;
        };
        count += 1;
        regex::Regex::new(pattern).unwrap();
        assert!(
            pattern.starts_with('^') && pattern.ends_with('$'),
            "{pattern}"
        );
        for foreign in ["(?", "[[", "&&", "--", "~~"] {
            assert!(!pattern.contains(foreign), "{foreign} in {pattern}");
        }
        for after in pattern.split('\\').skip(1) {
            assert!(after.starts_with('.'), "\\{after} in {pattern}");
        }
        for times in pattern.split('{').skip(1) {
            let times = times.split('}').next().unwrap();
            for number in times.split(',') {
                assert!(number.parse::<u16>().unwrap() <= 1000, "{times}");
            }
        }
    });
    assert!(count > 10, "{count}");
}
