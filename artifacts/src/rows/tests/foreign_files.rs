//! Files that hold no rows, by name and by their first bytes.

use rstest::rstest;

use super::*;

const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56\x2a\x49\xad\x28\x51\xb2\x52\x4a\x54\xaa\x05\x00";

#[rstest]
#[case("train.jsonl.gz", "is compressed with gzip: unpack it with `gunzip`")]
#[case("train.json.bz2", "is compressed with bzip2")]
#[case("train.jsonl.zst", "is compressed with Zstandard")]
#[case("train.jsonl.XZ", "is compressed with xz")]
#[case("data.zip", "is an archive: unpack it")]
#[case("data.tar", "is an archive")]
#[case("handbook.pdf", "is a PDF: save its text as .txt or .md")]
#[case("handbook.doc", "is a document of a text program")]
#[case("handbook.docx", "is a document of a text program")]
#[case("faq.xlsx", "is a file of a spreadsheet: save each sheet as .csv")]
#[case("faq.tsv", "is a table with tabs: save it as .csv")]
#[case("page.html", "is a web page")]
#[case("data.arrow", "is an Arrow file: save it as .parquet")]
#[case("data.yaml", "holds data in a form that is not read")]
#[case("model.safetensors", "holds the weights of a model")]
#[case("lamp.png", "is a picture")]
fn a_file_that_is_no_data_by_its_name_is_refused_with_the_cure(
    #[case] name: &str,
    #[case] expected: &str,
) {
    for format in [Format::Auto, Format::Text] {
        let message = read_file(name, format, "{\"text\":\"a\"}\n")
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with(&format!("{name}: not_data: the file ")),
            "{message}"
        );
        assert!(message.contains(expected), "{message}");
    }
}

#[rstest]
#[case(GZIP, "is compressed with gzip: unpack it with `gunzip`")]
#[case(b"BZh91AY&SY\x01\x02", "is compressed with bzip2")]
#[case(b"\xfd7zXZ\0\0\x04", "is compressed with xz")]
#[case(b"\x28\xb5\x2f\xfd\x04\0", "is compressed with Zstandard")]
#[case(
    b"PK\x03\x04\x14\0",
    "is a zip archive, or a document that is one (.docx, .xlsx, .epub)"
)]
#[case(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is a PDF")]
#[case(b"{\\rtf1\\ansi Hello}", "is a document of a text program")]
#[case(
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0",
    "is a file of an office program"
)]
#[case(b"ARROW1\0\0", "is an Arrow file")]
#[case(b"PAR1\x15\x04\x15\0", "is a Parquet file: name it as one")]
#[case(b"GGUF\x03\0\0\0", "holds the weights of a model")]
#[case(b"\x89PNG\r\n\x1a\n", "is a picture")]
#[case(b"\n<!DOCTYPE html><html>", "is a web page")]
#[case(b"\xef\xbb\xbf<HTML lang=\"de\">", "is a web page")]
#[case(
    b"version https://git-lfs.github.com/spec/v1\n",
    "is a pointer of Git LFS"
)]
fn a_file_that_is_no_data_is_known_by_its_first_bytes_under_any_name(
    #[case] bytes: &[u8],
    #[case] expected: &str,
) {
    for name in [
        "a.jsonl",
        "a.json",
        "a.csv",
        "a.txt",
        "a.md",
        "a.parquet",
        "a",
    ] {
        if name == "a.parquet" && bytes.starts_with(b"PAR1") {
            continue;
        }
        let message = read_file(name, Format::Auto, bytes)
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with(&format!("{name}: not_data: the file ")),
            "{message}"
        );
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn xml_is_no_data_but_a_document_may_show_some() {
    let xml = "<?xml version=\"1.0\"?><a/>";
    let message = read_file("a.jsonl", Format::Auto, xml)
        .unwrap_err()
        .to_string();
    assert!(message.contains("not_data: the file is XML"), "{message}");
    assert_eq!(
        only(read_file("a.md", Format::Auto, xml).unwrap()),
        RowContent::Document(xml.into())
    );
}

#[test]
fn a_name_of_a_folder_tells_nothing_of_the_file() {
    let rows = read_file("file:///data.tar/rows", Format::Auto, "{\"text\":\"a\"}").unwrap();
    assert_eq!(rows.rows.len(), 1);
}

/// A megabyte of zeros in a kilobyte, a thousand of which would fill a machine: nothing is unpacked.
#[test]
fn a_compressed_file_is_never_unpacked() {
    let mut bytes = GZIP.to_vec();
    bytes.resize(1 << 20, 0);
    let faults = read_file("a.jsonl", Format::Auto, bytes).unwrap_err();
    assert_eq!(faults.count, 1);
}
