//! JSON: one array of objects, over any number of lines.

use std::io::{self, BufRead};

use super::{Take, line_feeds, object, utf8};
use crate::rows::fault::{FaultClass, Problem};
use crate::rows::json::{Json, UniqueKeys, reason};

/// Whether the file begins with an array. One that begins with an object is read as JSONL, since many are called `.json`.
pub(super) fn begins(source: &mut impl BufRead) -> io::Result<bool> {
    let start = source.fill_buf()?;
    Ok(start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'['))
}

/// Reads the elements one after another. What comes after an element that is no JSON cannot be told apart and is not read.
pub(super) fn read(mut source: impl BufRead, take: &mut Take<'_>) -> io::Result<()> {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes)?;
    let text = match utf8(&bytes) {
        Ok(text) => text,
        Err(problem) => {
            let good =
                std::str::from_utf8(&bytes).map_or_else(|error| error.valid_up_to(), str::len);
            take(line_at(&bytes, good), Err(problem));
            return Ok(());
        }
    };
    let mut array = Elements {
        text,
        at: 0,
        line: 1,
        counted: 0,
    };
    array.skip_blank();
    array.at += 1;
    for read in 0_usize.. {
        match array.next(read == 0) {
            Ok(Some((line, value))) => {
                let place = || format!(" as element {} of the array", read + 1);
                take(line, object(value, place));
            }
            Ok(None) => return Ok(()),
            Err((line, message)) => {
                take(line, Err(Problem::new(FaultClass::InvalidJson, message)));
                return Ok(());
            }
        }
    }
    Ok(())
}

fn line_at(bytes: &[u8], at: usize) -> usize {
    1 + line_feeds(&bytes[..at])
}

/// The place in an array.
struct Elements<'text> {
    text: &'text str,
    at: usize,
    /// The line of byte `counted`.
    line: usize,
    counted: usize,
}

impl Elements<'_> {
    /// The next element and its line; `None` after the last one. `first` says that none was read yet.
    fn next(&mut self, first: bool) -> Result<Option<(usize, Json)>, (usize, String)> {
        self.skip_blank();
        match self.peek() {
            Some(b']') => return self.end(),
            Some(b',') if !first => {
                self.at += 1;
                self.skip_blank();
            }
            Some(_) if first => {}
            Some(_) => return Err((self.line(), "expected `,` or `]` after a row".to_owned())),
            None => {
                return Err((
                    self.line(),
                    "the array does not end: is the file cut off?".to_owned(),
                ));
            }
        }
        let line = self.line();
        let mut values = serde_json::Deserializer::from_str(&self.text[self.at..]).into_iter();
        match values.next() {
            Some(Ok(UniqueKeys(value))) => {
                self.at += values.byte_offset();
                Ok(Some((line, value)))
            }
            Some(Err(error)) => {
                let place = line + error.line().saturating_sub(1);
                let reason = reason(&error);
                let message = if error.is_data() {
                    format!("{reason}: keep one of them")
                } else {
                    format!("not a JSON array of objects: {reason}")
                };
                Err((place, message))
            }
            None => Err((
                line,
                "the array does not end: is the file cut off?".to_owned(),
            )),
        }
    }

    /// After `]` nothing may come.
    fn end(&mut self) -> Result<Option<(usize, Json)>, (usize, String)> {
        self.at += 1;
        self.skip_blank();
        match self.peek() {
            None => Ok(None),
            Some(_) => Err((
                self.line(),
                "something follows the array, expected one array a file".to_owned(),
            )),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blank(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count();
    }

    fn line(&mut self) -> usize {
        let passed = &self.text.as_bytes()[self.counted..self.at];
        self.line += line_feeds(passed);
        self.counted = self.at;
        self.line
    }
}
