//! A plain document: all of the file is one text. Lines end in a line feed alone, whatever system it comes from.

use std::io::{self, BufRead, Read};

use super::{Found, Notes, Take, too_long, utf8};
use crate::rows::MAX_LINE;

pub(super) fn read(source: impl BufRead, notes: &mut Notes, take: &mut Take<'_>) -> io::Result<()> {
    let mut bytes = Vec::new();
    source.take(MAX_LINE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_LINE {
        take(1, Err(too_long("the document")));
        return Ok(());
    }
    match utf8(&bytes) {
        Ok(text) if text.trim().is_empty() => {}
        Ok(text) => {
            notes.carriage_returns = text.contains("\r\n");
            take(1, Ok(Found::Document(text.replace("\r\n", "\n"))));
        }
        Err(problem) => take(1, Err(problem)),
    }
    Ok(())
}
