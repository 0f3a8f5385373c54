//! Parquet files as pyarrow writes them (`fixtures/parquet`, `fixtures/expected/parquet.json`): their rows are those of the
//! same data in JSON.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use finetune_artifacts::rows::{Faults, RowContent, RowFormat, RowReader, Rows};
use finetune_crds::fine_tune_job::{Columns, Format};
use rstest::rstest;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/fixtures")
}

fn read(name: &str, reader: RowReader) -> Result<Rows, Faults> {
    let mut reader = reader;
    let file = File::open(fixtures().join("parquet").join(name)).unwrap();
    reader.read_file(name, file).unwrap();
    reader.finish()
}

/// The same rows as JSONL, read by the reader of JSONL.
fn expected(name: &str) -> Rows {
    let text = std::fs::read(fixtures().join("expected/parquet.json")).unwrap();
    let mut files: BTreeMap<String, Vec<String>> = serde_json::from_slice(&text).unwrap();
    let lines = files.remove(name).unwrap().join("\n");
    let mut reader = RowReader::new(Format::Auto);
    reader.read("rows.jsonl", lines.as_bytes()).unwrap();
    reader.finish().unwrap()
}

fn contents(rows: &Rows) -> Vec<&RowContent> {
    rows.rows.iter().map(|row| &row.content).collect()
}

#[rstest]
#[case::dictionaries_in_three_row_groups("messages-snappy.parquet", RowFormat::Messages)]
#[case::pages_of_version_2("messages-zstd.parquet", RowFormat::Messages)]
#[case::many_pages("pairs-gzip.parquet", RowFormat::PromptCompletion)]
#[case::delta_encodings("pairs-plain.parquet", RowFormat::PromptCompletion)]
#[case::a_plain_column("text-plain.parquet", RowFormat::Text)]
#[case::a_time_that_no_form_has("alpaca-lz4.parquet", RowFormat::Alpaca)]
#[case::lists("sharegpt-brotli.parquet", RowFormat::ShareGPT)]
#[case::lists_of_messages("preference-zstd.parquet", RowFormat::Preference)]
fn the_rows_of_a_file_are_those_of_the_same_data_in_json(
    #[case] name: &str,
    #[case] format: RowFormat,
) {
    let rows = read(name, RowReader::new(Format::Auto)).unwrap();
    let wanted = expected(name);
    assert_eq!(rows.format, Some(format));
    assert_eq!(contents(&rows), contents(&wanted));
    let numbers: Vec<usize> = rows.rows.iter().map(|row| row.line).collect();
    assert_eq!(numbers, (1..=wanted.rows.len()).collect::<Vec<_>>());
}

#[rstest]
#[case::values(
    "pairs-gzip.parquet",
    Some("nothing reads the column `id`, which up to 300 rows have")
)]
#[case::nulls_alone("alpaca-lz4.parquet", None)]
#[case::no_other_column("text-plain.parquet", None)]
fn a_column_that_nothing_reads_and_that_has_values_is_told_of(
    #[case] name: &str,
    #[case] expected: Option<&str>,
) {
    let rows = read(name, RowReader::new(Format::Auto)).unwrap();
    assert_eq!(rows.unread.warning().as_deref(), expected);
}

#[test]
fn a_file_in_memory_and_one_on_disk_give_the_same_rows() {
    let name = "messages-zstd.parquet";
    let bytes = std::fs::read(fixtures().join("parquet").join(name)).unwrap();
    let mut reader = RowReader::new(Format::Messages);
    reader.read(name, bytes.as_slice()).unwrap();
    let rows = reader.finish().unwrap();
    let on_disk = read(name, RowReader::new(Format::Messages)).unwrap();
    assert!(!rows.rows.is_empty());
    assert_eq!(rows.rows, on_disk.rows);
}

#[test]
fn columns_are_found_under_the_names_that_the_file_has() {
    let columns = Columns {
        prompt: Some("output".into()),
        completion: Some("instruction".into()),
        ..Columns::default()
    };
    let reader = RowReader::new(Format::Auto).with_columns(&columns);
    let rows = read("alpaca-lz4.parquet", reader).unwrap();
    let pair = RowContent::PromptCompletion {
        prompt: "7".into(),
        completion: "Add".into(),
    };
    assert_eq!(contents(&rows), [&pair, &pair, &pair]);
}

#[test]
fn a_row_of_another_form_is_named_by_file_and_row() {
    let columns = Columns {
        text: Some("created".into()),
        ..Columns::default()
    };
    let cases = [
        (
            RowReader::new(Format::Text),
            "alpaca-lz4.parquet row 1: mixed_formats: the row is Alpaca, expected Text, as dataset.format says",
        ),
        (
            RowReader::new(Format::Text).with_columns(&columns),
            "alpaca-lz4.parquet row 1: missing_column: column `created` is null, expected it in format Text; the row has the \
             columns `instruction`, `input`, `output`, `created`",
        ),
    ];
    for (reader, expected) in cases {
        let message = read("alpaca-lz4.parquet", reader).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
