//! JSONL: one object a line.

use std::io::{self, BufRead, Read};

use super::{BYTE_ORDER_MARK, Notes, Take, object, too_long, utf8};
use crate::rows::MAX_LINE;
use crate::rows::fault::{FaultClass, Problem};
use crate::rows::json::{Json, UniqueKeys, reason};

pub(super) fn read(
    mut source: impl BufRead,
    notes: &mut Notes,
    take: &mut Take<'_>,
) -> io::Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // One byte more than allowed tells a line that is too long from one that just fits.
        let read = source
            .by_ref()
            .take(MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if read > MAX_LINE {
            skip_line(&mut source)?;
            take(number, Err(too_long("the line")));
            continue;
        }
        notes.carriage_returns |= line.ends_with(b"\r\n");
        let bytes = line.trim_ascii();
        if !bytes.is_empty() {
            take(
                number,
                parse(bytes).and_then(|value| object(value, String::new)),
            );
        }
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> Result<Json, Problem> {
    let invalid = |message: String| Problem::new(FaultClass::InvalidJson, message);
    if bytes.starts_with(BYTE_ORDER_MARK) {
        return Err(invalid(
            "the line begins with a byte order mark, as files have it that were joined to one: delete its bytes EF BB BF"
                .to_owned(),
        ));
    }
    match serde_json::from_str(utf8(bytes)?) {
        Ok(UniqueKeys(value)) => Ok(value),
        Err(error) if error.is_data() => {
            Err(invalid(format!("{}: keep one of them", reason(&error))))
        }
        Err(error) => Err(invalid(format!(
            "not a JSON object: {} at column {}, expected one object a line",
            reason(&error),
            error.column()
        ))),
    }
}

/// Reads to the end of the line without keeping it.
fn skip_line(source: &mut impl BufRead) -> io::Result<()> {
    loop {
        let available = source.fill_buf()?;
        if available.is_empty() {
            return Ok(());
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(available.len(), |end| end + 1);
        source.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}
