//! Files that hold no rows, by name or by their first bytes: what they are, and what to do. Their bytes are never unpacked.

use super::BYTE_ORDER_MARK;
use crate::rows::fault::{FaultClass, Problem};

/// How many bytes tell what a file is.
pub(super) const START: usize = 512;

const GZIP: &str = "is compressed with gzip: unpack it with `gunzip`";
const BZIP2: &str = "is compressed with bzip2: unpack it with `bunzip2`";
const XZ: &str = "is compressed with xz: unpack it with `unxz`";
const ZSTANDARD: &str = "is compressed with Zstandard: unpack it with `unzstd`";
const LZ4: &str = "is compressed with LZ4: unpack it with `unlz4`";
const ARCHIVE: &str = "is an archive: unpack it, and name the files or the folder in it";
const ZIP: &str = "is a zip archive, or a document that is one (.docx, .xlsx, .epub): unpack an archive, save the text of a \
                   document as .txt or .md, and a sheet as .csv";
const PDF: &str = "is a PDF: save its text as .txt or .md";
const DOCUMENT: &str = "is a document of a text program: save its text as .txt or .md";
const SHEET: &str = "is a file of a spreadsheet: save each sheet as .csv";
const OFFICE: &str =
    "is a file of an office program: save its text as .txt or .md, and a sheet as .csv";
const PAGE: &str = "is a web page: save its text as .txt or .md; where you expected data, the server answered with a page";
const MARKUP: &str = "is XML: save its rows as JSONL, or its text as .txt or .md";
const PICTURE: &str = "is a picture, a sound or a film: models are trained on text alone";
const ARROW: &str = "is an Arrow file: save it as .parquet";
const TABS: &str = "is a table with tabs: save it as .csv, with commas";
const OTHER_ROWS: &str =
    "holds data in a form that is not read: save it as .jsonl, .csv or .parquet";
const PARQUET: &str = "is a Parquet file: name it as one, ending in .parquet";
const WEIGHTS: &str = "holds the weights of a model: name files with rows";
const POINTER: &str = "is a pointer of Git LFS, not the file: fetch it with `git lfs pull`";

/// The fault of the file of this extension (in lower case) that begins with `start`, where it holds no rows.
pub(super) fn fault(extension: Option<&str>, start: &[u8]) -> Option<Problem> {
    let is = by_start(extension, start).or_else(|| by_name(extension?))?;
    Some(Problem::new(FaultClass::NotData, format!("the file {is}")))
}

fn by_name(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "gz" | "gzip" | "tgz" => GZIP,
        "bz2" | "tbz2" => BZIP2,
        "xz" | "lzma" | "txz" => XZ,
        "zst" | "zstd" => ZSTANDARD,
        "lz4" => LZ4,
        "zip" | "tar" | "7z" | "rar" => ARCHIVE,
        "pdf" => PDF,
        "doc" | "docx" | "odt" | "rtf" | "pages" | "epub" | "mobi" | "ppt" | "pptx" | "odp" => {
            DOCUMENT
        }
        "xls" | "xlsx" | "xlsm" | "ods" | "numbers" => SHEET,
        "html" | "htm" | "xhtml" => PAGE,
        "xml" => MARKUP,
        "tsv" | "tab" => TABS,
        "arrow" | "feather" => ARROW,
        "yaml" | "yml" | "toml" | "ipynb" | "db" | "sqlite" | "sqlite3" | "avro" | "orc"
        | "npy" | "npz" | "pkl" | "pickle" | "h5" | "hdf5" => OTHER_ROWS,
        "safetensors" | "gguf" | "pt" | "pth" | "ckpt" | "onnx" => WEIGHTS,
        "png" | "jpg" | "jpeg" | "gif" | "webp" | "bmp" | "tif" | "tiff" | "svg" | "mp3"
        | "wav" | "flac" | "ogg" | "mp4" | "mkv" | "webm" => PICTURE,
        _ => return None,
    })
}

/// By marks that no text begins with, but those of pages and XML, which no rows do.
fn by_start(extension: Option<&str>, start: &[u8]) -> Option<&'static str> {
    const MARKS: [(&[u8], &str); 23] = [
        (b"\x1f\x8b", GZIP),
        (b"BZh", BZIP2),
        (b"\xfd7zXZ\0", XZ),
        (b"\x28\xb5\x2f\xfd", ZSTANDARD),
        (b"\x04\x22\x4d\x18", LZ4),
        (b"7z\xbc\xaf\x27\x1c", ARCHIVE),
        (b"Rar!\x1a\x07", ARCHIVE),
        (b"PK\x03\x04", ZIP),
        (b"%PDF-", PDF),
        (b"{\\rtf", DOCUMENT),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OFFICE),
        (b"ARROW1", ARROW),
        (b"FEA1", ARROW),
        (b"PAR1", PARQUET),
        (b"SQLite format 3\0", OTHER_ROWS),
        (b"Obj\x01", OTHER_ROWS),
        (b"\x93NUMPY", OTHER_ROWS),
        (b"\x89HDF\r\n\x1a\n", OTHER_ROWS),
        (b"\x89PNG\r\n\x1a\n", PICTURE),
        (b"\xff\xd8\xff", PICTURE),
        (b"GIF8", PICTURE),
        (b"\x80\x04\x95", OTHER_ROWS),
        (b"version https://git-lfs", POINTER),
    ];
    let found = MARKS.into_iter().find(|(mark, _)| start.starts_with(mark));
    if let Some((mark, is)) = found {
        // Marks of letters alone may begin a text: then bytes that no text has follow.
        let letters = mark.iter().all(u8::is_ascii_alphanumeric);
        let text = start
            .iter()
            .all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace());
        return (!(letters && text)).then_some(is);
    }
    if start.starts_with(b"GGUF") && start.get(5..8) == Some(&[0, 0, 0]) {
        return Some(WEIGHTS);
    }
    if start.get(257..262) == Some(b"ustar") {
        return Some(ARCHIVE);
    }
    let start = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start);
    let start = start.trim_ascii_start();
    let lower = start[..start.len().min(16)].to_ascii_lowercase();
    if lower.starts_with(b"<!doctype html") || lower.starts_with(b"<html") {
        return Some(PAGE);
    }
    // A document may begin with marks of its own.
    let document = matches!(extension, Some("txt" | "md"));
    (lower.starts_with(b"<?xml") && !document).then_some(MARKUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_rows_are_no_other_kind_of_file() {
        for (name, start) in [
            ("txt", &b"BZh is how bzip2 begins\nand this is a text"[..]),
            ("txt", b"GIF89a is a format"),
            ("md", b"PAR1: a title"),
            ("md", b"GGUF is a format of files"),
            ("md", b"<?xml is how it begins"),
            ("md", b"<p align=\"center\">"),
            ("jsonl", b"{\"text\": \"a\"}"),
            ("json", b"[{\"text\": \"a\"}]"),
            ("csv", b"text\na\n"),
            ("2026", b""),
        ] {
            assert_eq!(fault(Some(name), start), None, "{name} {start:?}");
        }
        assert_eq!(fault(None, b"{}"), None);
    }
}
