//! Takes a file apart into records or a document, by the format that its name ends in.

mod document;
mod foreign;
mod json_array;
mod json_lines;
mod parquet;
mod quotes;
mod table;

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use bytes::Bytes;

use super::fault::{FaultClass, Problem};
use super::file_name::{extension, is_columnar};
use super::json::{Json, Object};

/// What stands at one place of a file.
#[derive(Debug)]
pub(super) enum Found {
    /// Named columns.
    Record(Object),
    /// The whole file, as one text.
    Document(String),
}

/// What is odd about a file and no fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    /// It begins with a byte order mark.
    pub(super) byte_order_mark: bool,
    /// Its lines end in carriage return and line feed.
    pub(super) carriage_returns: bool,
    /// Columns that hold something and were not looked at.
    pub(super) passed_over: Vec<String>,
}

/// Takes what stands at a line or, of a table of columns, at a row, from 1; 0 where it is about the file.
pub(super) type Take<'a> = dyn FnMut(usize, Result<Found, Problem>) + 'a;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the file called `name`. Of columns `wanted` says which are looked at, where the format can tell them apart.
pub(super) fn read(
    name: &str,
    mut source: impl BufRead,
    wanted: &dyn Fn(&str) -> bool,
    take: &mut Take<'_>,
) -> io::Result<Notes> {
    let mut notes = Notes::default();
    if is_columnar(name) {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes)?;
        notes.passed_over = parquet::read(Bytes::from(bytes), wanted, take);
        return Ok(notes);
    }
    let extension = extension(name);
    let start = source.fill_buf()?;
    let first = &start[..start.len().min(foreign::START)];
    if let Some(problem) = foreign::fault(extension.as_deref(), first) {
        take(0, Err(problem));
        return Ok(notes);
    }
    if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
        let problem = Problem::new(FaultClass::NotUtf8, "the file is UTF-16: save it as UTF-8");
        take(1, Err(problem));
        return Ok(notes);
    }
    if start.starts_with(BYTE_ORDER_MARK) {
        notes.byte_order_mark = true;
        source.consume(BYTE_ORDER_MARK.len());
    }
    match extension.as_deref() {
        Some("json") if json_array::begins(&mut source)? => json_array::read(source, take)?,
        Some("csv") => table::read(source, take)?,
        Some("txt" | "md") => document::read(source, &mut notes, take)?,
        _ => json_lines::read(source, &mut notes, take)?,
    }
    Ok(notes)
}

/// Reads the file called `name`, in parts where its format allows.
pub(super) fn read_file(
    name: &str,
    file: File,
    wanted: &dyn Fn(&str) -> bool,
    take: &mut Take<'_>,
) -> io::Result<Notes> {
    if is_columnar(name) {
        return Ok(Notes {
            passed_over: parquet::read(file, wanted, take),
            ..Notes::default()
        });
    }
    read(name, BufReader::with_capacity(1 << 20, file), wanted, take)
}

/// The text of some bytes, or where they are not UTF-8.
fn utf8(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|error| {
        Problem::new(
            FaultClass::NotUtf8,
            format!(
                "it is not UTF-8 at byte {}: save the file as UTF-8",
                error.valid_up_to() + 1
            ),
        )
    })
}

/// The object that a row must be; `place` is said where it is none.
fn object(value: Json, place: impl FnOnce() -> String) -> Result<Found, Problem> {
    match value {
        Json::Object(object) => Ok(Found::Record(object)),
        other => Err(Problem::new(
            FaultClass::DataType,
            format!(
                "the row is {}, expected a JSON object{}",
                other.kind(),
                place()
            ),
        )),
    }
}

fn line_feeds(bytes: &[u8]) -> usize {
    bytes.split(|byte| *byte == b'\n').count() - 1
}

fn too_long(what: &str) -> Problem {
    let limit = super::MAX_LINE;
    Problem::new(
        FaultClass::TooLong,
        format!("{what} is longer than {limit} bytes: split it"),
    )
}
