//! Rows of data and lists of files that are not what they should be.

use std::io::{BufReader, Read, repeat};

use finetune_artifacts::manifest::Manifest;
use finetune_artifacts::rows::RowReader;
use finetune_crds::fine_tune_job::Format;
use rstest::rstest;

/// The faults of a file of this content after one good row.
fn faults(second: impl Read) -> String {
    let first = br#"{"text": "a"}"#.as_slice();
    let content = first.chain(b"\n".as_slice()).chain(second);
    let mut reader = RowReader::new(Format::Text);
    reader.read("train.jsonl", BufReader::new(content)).unwrap();
    reader.finish().unwrap_err().to_string()
}

#[test]
fn a_line_of_more_than_100_mb_is_refused_by_its_number_and_the_next_one_is_read() {
    let long = repeat(b'x')
        .take(100_000_001)
        .chain(b"\nnot json\n".as_slice());
    let message = faults(long);
    assert!(
        message.contains("train.jsonl line 2: ") && message.contains("longer than 100000000 bytes"),
        "{message}"
    );
    assert!(message.contains("train.jsonl line 3: "), "{message}");
}

#[rstest]
#[case::not_utf_8(b"{\"text\": \"\xff\"}", "not UTF-8 at byte 11")]
#[case::zero_bytes(b"\0\0\0\0", "line 2")]
#[case::a_list(b"[1]", "JSON object")]
#[case::cut(b"{\"text\": \"a", "line 2")]
#[case::two_objects(b"{\"text\": \"a\"}{\"text\": \"b\"}", "trailing characters")]
#[case::a_number(b"{\"text\": 1}", "a number, expected")]
#[case::lone_surrogate(b"{\"text\": \"\\ud800\"}", "line 2")]
#[case::another_column(b"{\"txet\": \"a\"}", "`txet`")]
fn a_broken_row_is_refused_by_file_and_line(#[case] row: &[u8], #[case] expected: &str) {
    let message = faults(row);
    assert!(
        message.contains("train.jsonl line 2: ") && message.contains(expected),
        "{message}"
    );
}

#[test]
fn a_row_of_a_hundred_thousand_lists_in_lists_is_refused() {
    let row = format!("{{\"text\": {}", "[".repeat(100_000));
    let message = faults(row.as_bytes());
    assert!(message.contains("train.jsonl line 2: "), "{message}");
}

#[rstest]
#[case::climbs("../evil", "without `..`")]
#[case::climbs_inside("a/../../evil", "without `..`")]
#[case::stays("a/./b", "without `..`")]
#[case::absolute("/etc/passwd", "without `..`")]
#[case::empty("", "1 to 512 bytes")]
#[case::empty_part("a//b", "empty name")]
#[case::backslash("..\\\\evil", "no backslash")]
#[case::zero_byte("a\\u0000b", "no control characters")]
#[case::line_break("a\\nb", "no control characters")]
#[case::itself("manifest.json", "every file but the manifest itself")]
fn a_path_trick_in_a_manifest_of_files_is_refused(#[case] path: &str, #[case] expected: &str) {
    let text = format!(
        r#"{{"files":[{{"path":"{path}","size":1,"sha256":"{}"}}]}}"#,
        "0".repeat(64)
    );
    let message = Manifest::parse(text.as_bytes(), "s3://b/a/manifest.json")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("s3://b/a/manifest.json") && message.contains(expected),
        "{message}"
    );
}

#[rstest]
#[case::no_json("{", "EOF")]
#[case::an_unknown_field("{\"files\":[],\"x\":1}", "unknown field `x`")]
#[case::a_link(
    r#"{"files":[{"path":"a","size":1,"sha256":"","link":"b"}]}"#,
    "unknown field `link`"
)]
#[case::a_size_below_zero(r#"{"files":[{"path":"a","size":-1,"sha256":""}]}"#, "integer `-1`")]
#[case::a_digest_of_three_digits(
    r#"{"files":[{"path":"a","size":1,"sha256":"abc"}]}"#,
    "has sha256 `abc` for `a`"
)]
fn a_broken_manifest_of_files_is_refused(#[case] text: &str, #[case] expected: &str) {
    let message = Manifest::parse(text.as_bytes(), "s3://b/a/manifest.json")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("s3://b/a/manifest.json") && message.contains(expected),
        "{message}"
    );
}
