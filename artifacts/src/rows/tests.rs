//! What is a row, and what is said of one that is not.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn read(format: Format, text: impl AsRef<[u8]>) -> Result<Rows, Faults> {
    let mut reader = RowReader::new(format);
    reader.read("train.jsonl", text.as_ref()).unwrap();
    reader.finish()
}

const MESSAGES: &str =
    r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#;

#[rstest]
#[case(MESSAGES, RowFormat::Messages)]
#[case(
    r#"{"prompt":"p","completion":"c","id":7}"#,
    RowFormat::PromptCompletion
)]
#[case(r#"{"text":"t"}"#, RowFormat::Text)]
fn the_form_is_read_off_the_first_row(#[case] row: &str, #[case] expected: RowFormat) {
    let rows = read(Format::Auto, row).unwrap();
    assert_eq!(rows.format, Some(expected));
    assert_eq!(rows.rows.len(), 1);
}

#[test]
fn line_ends_byte_order_mark_and_blank_lines_of_other_systems_are_tolerated() {
    let rows = read(
        Format::Auto,
        "\u{feff}{\"text\":\"a\"}\r\n\r\n{\"text\":\"b\"}\r\n\n",
    )
    .unwrap();
    let lines: Vec<usize> = rows.rows.iter().map(|row| row.line).collect();
    assert_eq!(lines, [1, 3]);
}

#[rstest]
#[case(Format::Auto, r"[1]", "not a JSON object")]
#[case(
    Format::Auto,
    r#"{"text":"a"} {"text":"b"}"#,
    "trailing characters at column 14"
)]
#[case(
    Format::Auto,
    r#"{"question":"a"}"#,
    "the row has the columns `question`, expected `messages`"
)]
#[case(Format::Auto, "{}", "the row has the columns (none)")]
#[case(
    Format::Auto,
    r#"{"text":"a","messages":[]}"#,
    "the columns of Messages and of Text: set dataset.format"
)]
#[case(
    Format::Text,
    r#"{"prompt":"a"}"#,
    "column `text` is absent, expected it in format Text"
)]
#[case(Format::Text, r#"{"text":3}"#, "`text` is a number, expected text")]
#[case(
    Format::PromptCompletion,
    r#"{"prompt":[],"completion":""}"#,
    "`prompt` is a list, expected text; conversations go into"
)]
#[case(Format::Messages, r#"{"messages":[]}"#, "`messages` is empty")]
#[case(
    Format::Messages,
    r#"{"messages":{}}"#,
    "`messages` is an object, expected a list"
)]
#[case(
    Format::Messages,
    r#"{"messages":["hi"]}"#,
    "`messages[0]` is text, expected an object"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"content":"a"}]}"#,
    "`messages[0]` has no `role`"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":null}]}"#,
    "`messages[0].content` is null, expected text"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"","content":"a"}]}"#,
    "`messages[0].role` is empty"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":"a","weight":0}]}"#,
    "has the field `weight`"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":"a"}],"tools":[]}"#,
    "column `tools` is set"
)]
fn a_malformed_row_is_named_with_file_line_and_cure(
    #[case] format: Format,
    #[case] row: &str,
    #[case] expected: &str,
) {
    let faults = read(format, format!("\n{row}\n")).unwrap_err();
    let message = faults.to_string();
    assert!(message.starts_with("train.jsonl line 2: "), "{message}");
    assert!(message.contains(expected), "{message}");
}

#[test]
fn bytes_that_are_not_utf8_are_a_fault_of_their_line() {
    let faults = read(Format::Text, b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n").unwrap_err();
    assert_eq!(
        faults.to_string(),
        "train.jsonl line 2: it is not UTF-8 at byte 10"
    );
}

#[test]
fn the_first_twenty_faults_are_shown_and_all_are_counted() {
    let faults = read(Format::Text, "{\"text\":1}\n".repeat(23)).unwrap_err();
    assert_eq!((faults.first.len(), faults.count), (20, 23));
    let message = faults.to_string();
    assert!(
        message.starts_with("23 rows are malformed: train.jsonl line 1: "),
        "{message}"
    );
    assert!(message.ends_with("line 20: `text` is a number, expected text\nand 3 more"));
}

#[test]
fn a_line_beyond_the_bound_is_a_fault_and_the_next_one_is_read() {
    let long = io::repeat(b'x').take(MAX_LINE as u64 + 1);
    let source = long.chain(&b"\n{\"text\":3}\n"[..]);
    let mut reader = RowReader::new(Format::Text);
    reader
        .read("train.jsonl", io::BufReader::new(source))
        .unwrap();
    let faults = reader.finish().unwrap_err();
    assert_eq!(faults.count, 2);
    assert!(
        faults.first[0]
            .message
            .contains("longer than 100000000 bytes")
    );
    assert_eq!(faults.first[1].line, 2);
}

#[test]
fn equal_content_has_one_hash_however_it_is_written() {
    let rows = read(
        Format::Auto,
        "{\"prompt\":\"a\",\"completion\":\"bc\"}\n{ \"completion\": \"\\u0062c\", \"prompt\": \"a\" }\n{\"prompt\":\"ab\",\"completion\":\"c\"}",
    )
    .unwrap()
    .rows;
    let hashes: Vec<_> = rows.iter().map(|row| row.content.hash()).collect();
    assert_eq!(hashes[0], hashes[1]);
    assert_ne!(hashes[0], hashes[2], "parts must not run together");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(Format::Auto, &bytes);
    }

    #[test]
    fn arbitrary_json_never_panics(
        key in "messages|prompt|completion|text|x",
        inner in r#"(\{"(role|content)":("a"|1|null)\}|"[a-z]*"|\[|\]|,|[0-9]){0,6}"#,
    ) {
        let _ = read(Format::Auto, format!("{{\"{key}\":[{inner}]}}"));
        let _ = read(Format::Messages, format!("{{\"{key}\":{inner}}}"));
    }
}
