//! Rows of data and lists of files that are not what they should be.

use std::io::{BufReader, Read, repeat};

use finetune_artifacts::manifest::Manifest;
use finetune_artifacts::rows::RowReader;
use finetune_crds::fine_tune_job::Format;
use rstest::rstest;

use crate::bench::fixture;

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

/// The faults of a fixture in Parquet after a change to its bytes.
fn parquet_faults(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = std::fs::read(fixture("parquet").join(name)).unwrap();
    change(&mut bytes);
    let mut reader = RowReader::new(Format::Auto);
    reader
        .read("s3://b/train.parquet", bytes.as_slice())
        .unwrap();
    reader.finish().unwrap_err().to_string()
}

/// Replaces all of `from`, which must be there.
fn replace(bytes: &mut Vec<u8>, from: &[u8], to: &[u8]) {
    let mut found = false;
    while let Some(at) = bytes.windows(from.len()).position(|part| part == from) {
        bytes.splice(at..at + from.len(), to.iter().copied());
        found = true;
    }
    assert!(found, "{from:?} is not there");
}

/// Writes over what stands `back` bytes before the end.
fn at_end(bytes: &mut [u8], back: usize, value: &[u8]) {
    let at = bytes.len() - back;
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[rstest]
#[case::empty(|bytes: &mut Vec<u8>| bytes.clear(), "it does not begin with PAR1")]
#[case::no_parquet(|bytes: &mut Vec<u8>| *bytes = br#"{"text": "a"}"#.to_vec(), "it does not begin with PAR1")]
#[case::cut_in_the_rows(|bytes: &mut Vec<u8>| bytes.truncate(60), "does not end with PAR1: is the file cut off?")]
#[case::cut_in_the_tail(|bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1), "does not end with PAR1")]
#[case::only_marks(|bytes: &mut Vec<u8>| *bytes = b"PAR1\0\0\0\0PAR1".to_vec(), "its footer cannot be read")]
#[case::a_footer_of_4_gb(|bytes: &mut Vec<u8>| at_end(bytes, 8, &[0xff; 4]), "its footer claims 4294967295 bytes")]
#[case::a_footer_of_nothing(|bytes: &mut Vec<u8>| at_end(bytes, 8, &[0; 4]), "its footer cannot be read")]
#[case::a_shorter_footer(|bytes: &mut Vec<u8>| at_end(bytes, 8, &[20, 0, 0, 0]), "footer")]
#[case::a_broken_footer(|bytes: &mut Vec<u8>| at_end(bytes, 60, &[0xff; 40]), "footer")]
#[case::encrypted(|bytes: &mut Vec<u8>| at_end(bytes, 4, b"PARE"), "it is encrypted: save it without encryption")]
#[case::encrypted_wholly(|bytes: &mut Vec<u8>| replace(bytes, b"PAR1", b"PARE"), "it is encrypted")]
fn a_broken_parquet_file_is_refused_by_name(
    #[case] change: fn(&mut Vec<u8>),
    #[case] expected: &str,
) {
    let message = parquet_faults("text-plain.parquet", change);
    assert!(
        message.starts_with("s3://b/train.parquet: invalid_parquet: ")
            && message.contains(expected),
        "{message}"
    );
}

#[rstest]
#[case::a_pointer(
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "is a pointer of Git LFS, not the file: fetch it with `git lfs pull`"
)]
#[case::a_page_of_the_web(b"<!DOCTYPE html><html></html>", "is a web page")]
#[case::compressed(b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "is compressed with gzip")]
fn a_file_of_another_kind_named_parquet_is_refused_as_what_it_is(
    #[case] content: &[u8],
    #[case] expected: &str,
) {
    let message = parquet_faults("text-plain.parquet", |bytes| *bytes = content.to_vec());
    assert!(
        message.starts_with(&format!(
            "s3://b/train.parquet: not_data: the file {expected}"
        )),
        "{message}"
    );
}

#[rstest]
#[case::not_utf_8(
    b"cd\xc3\xa9",
    b"cd\xff\xa9",
    "row 2: not_utf8: column `text`: it is not UTF-8 at byte 3"
)]
#[case::a_text_longer_than_the_page(
    b"\x02\0\0\0ab",
    b"\xff\xff\xff\x7fab",
    "row 1: invalid_parquet: `text` cannot be read"
)]
#[case::a_text_of_a_length_below_0(
    b"\x02\0\0\0ab",
    b"\x02\0\0\xffab",
    "row 1: invalid_parquet: `text` cannot be read"
)]
fn a_broken_value_in_parquet_is_refused_by_row(
    #[case] from: &[u8],
    #[case] to: &[u8],
    #[case] expected: &str,
) {
    let message = parquet_faults("text-plain.parquet", |bytes| replace(bytes, from, to));
    assert!(
        message.contains(&format!("s3://b/train.parquet {expected}")),
        "{message}"
    );
}

#[rstest]
#[case::snappy("messages-snappy.parquet")]
#[case::zstd("messages-zstd.parquet")]
#[case::gzip("pairs-gzip.parquet")]
#[case::lz4("alpaca-lz4.parquet")]
#[case::brotli("sharegpt-brotli.parquet")]
fn compressed_pages_that_are_damaged_are_refused(#[case] name: &str) {
    // The first page lies behind the mark: its header, and then what is compressed.
    let message = parquet_faults(name, |bytes| bytes[4..200].fill(0x5a));
    assert!(
        message.contains("s3://b/train.parquet row 1: "),
        "{message}"
    );
    let message = parquet_faults(name, |bytes| bytes[60..90].reverse());
    assert!(message.contains("s3://b/train.parquet row "), "{message}");
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
