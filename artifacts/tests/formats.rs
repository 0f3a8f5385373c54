//! The forms of rows are those of the schema: whoever adds one to the reader adds it to the manifest, and the other way round.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use finetune_artifacts::rows::RowFormat;
use serde_json::Value;

/// The schema of `spec.dataset`.
fn dataset() -> Value {
    finetune_crds::schema::fine_tune_job()["properties"]["spec"]["properties"]["dataset"].clone()
}

#[test]
fn the_reader_has_every_format_of_the_schema() {
    let dataset = dataset();
    let of_schema = dataset["properties"]["format"]["enum"].as_array().unwrap();
    for name in of_schema.iter().filter(|name| **name != "Auto") {
        let format = serde_json::from_value(name.clone()).unwrap();
        let format = RowFormat::wanted(format).unwrap();
        assert_eq!(format.name(), name);
        assert!(RowFormat::ALL.contains(&format), "ALL has no {name}");
    }
    assert_eq!(of_schema.len(), 1 + RowFormat::ALL.len());
}

#[test]
fn the_schema_takes_a_column_of_the_formats_that_the_reader_takes_it_of() {
    let dataset = dataset();
    let rules = dataset["x-kubernetes-validations"].as_array().unwrap();
    let rules: Vec<&str> = rules
        .iter()
        .map(|rule| rule["rule"].as_str().unwrap())
        .collect();
    let rule = rules
        .iter()
        .find(|rule| rule.contains("self.columns"))
        .unwrap();
    let columns = dataset["properties"]["columns"]["properties"]
        .as_object()
        .unwrap();
    for column in columns.keys() {
        let has = |format: &RowFormat| {
            format.required().contains(&column.as_str())
                || format.optional().contains(&column.as_str())
        };
        let formats = RowFormat::ALL.iter().filter(|format| has(format));
        let formats: Vec<String> = formats.map(|format| format!("'{format}'")).collect();
        let holds = match formats.as_slice() {
            [one] => format!("self.format == {one})"),
            several => format!("self.format in [{}])", several.join(", ")),
        };
        let clause = format!("(!has(self.columns.{column}) || {holds}");
        assert!(
            rule.contains(&clause),
            "the rule of dataset.columns has no {clause}: {rule}"
        );
    }
    for format in RowFormat::ALL {
        for column in format.required().iter().chain(format.optional()) {
            assert!(
                columns.contains_key(*column),
                "dataset.columns has no {column} of {format}"
            );
        }
    }
}
