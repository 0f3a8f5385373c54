//! CSV with a header: commas, double quotes, as RFC 4180 has it. As spreadsheets leave them behind, columns without a name may
//! be there more than once, and a row of empty fields is a blank line.

use std::io::{self, BufRead};

use csv::{ByteRecord, ReaderBuilder};

use super::{Found, Take, quotes, too_long, utf8};
use crate::rows::MAX_LINE;
use crate::rows::fault::{FaultClass, Problem};
use crate::rows::json::{Json, Object};

pub(super) fn read(mut source: impl BufRead, take: &mut Take<'_>) -> io::Result<()> {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes)?;
    let mut reader = ReaderBuilder::new()
        .flexible(true)
        .from_reader(bytes.as_slice());
    let header = reader.byte_headers()?.clone();
    let end = reader.position().byte() as usize;
    if let Some((at, problem)) = quotes::fault(&bytes[..end]) {
        take(1 + line_ends(&bytes[..at]), Err(problem));
        return Ok(());
    }
    let header = match names(&header) {
        Ok(header) => header,
        Err(problem) => {
            take(1, Err(problem));
            return Ok(());
        }
    };
    let mut record = ByteRecord::new();
    let (mut line, mut counted) = (1, 0);
    while reader.read_byte_record(&mut record)? {
        // The reader's own place of a record is before the end of the line before it, and before blank lines.
        let mut start = record.position().map_or(0, |place| place.byte() as usize);
        while matches!(bytes.get(start), Some(b'\r' | b'\n')) {
            start += 1;
        }
        line += line_ends(&bytes[counted..start]);
        counted = start;
        let end = reader.position().byte() as usize;
        let raw = bytes.get(start..end).unwrap_or_default();
        if let Some((at, problem)) = quotes::fault(raw) {
            take(line + line_ends(&raw[..at]), Err(problem));
            continue;
        }
        let blank = record.len() > 1 && record.iter().all(<[u8]>::is_empty);
        if !blank {
            take(line, row(&header, &record));
        }
    }
    Ok(())
}

/// How many lines end there: in a line feed, in a carriage return, as old programs write them, or in both.
fn line_ends(bytes: &[u8]) -> usize {
    let ends = |(at, byte): &(usize, &u8)| match byte {
        b'\n' => true,
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        _ => false,
    };
    bytes.iter().enumerate().filter(ends).count()
}

fn names(header: &ByteRecord) -> Result<Vec<String>, Problem> {
    let invalid = |message: String| Problem::new(FaultClass::InvalidCsv, message);
    let mut names: Vec<String> = Vec::with_capacity(header.len());
    for field in header {
        let name = utf8(field)?.trim().to_owned();
        if !name.is_empty() && names.contains(&name) {
            return Err(invalid(format!(
                "the header names `{name}` twice, expected each column once"
            )));
        }
        names.push(name);
    }
    match names.as_slice() {
        [one] if one.contains([';', '\t']) => Err(invalid(format!(
            "the header is `{one}`, expected commas between the names: save the file with commas"
        ))),
        _ => Ok(names),
    }
}

fn row(header: &[String], record: &ByteRecord) -> Result<Found, Problem> {
    if record.as_slice().len() > MAX_LINE {
        return Err(too_long("the row"));
    }
    if record.len() != header.len() {
        return Err(Problem::new(
            FaultClass::InvalidCsv,
            format!(
                "the row has {} fields, expected {}, as the header has: put fields that hold commas or quotes into double \
                 quotes",
                record.len(),
                header.len()
            ),
        ));
    }
    let mut columns = Object::with_capacity(header.len());
    for (name, field) in header.iter().zip(record) {
        if name.is_empty() && field.is_empty() {
            continue;
        }
        columns.insert(name.clone(), Json::Text(utf8(field)?.to_owned()));
    }
    Ok(Found::Record(columns))
}
