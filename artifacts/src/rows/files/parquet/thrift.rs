//! Walks over records in Thrift's compact protocol, in which Parquet files describe themselves.
//!
//! It looks at what a file claims before anything acts on the claim, so it holds nothing, goes down only so far, and never
//! trusts a length.

use std::io::{self, Read};

/// How deep records may lie in one another; those of Parquet lie in five at most.
const DEEPEST: usize = 32;

/// The types of fields, as they are written.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const RECORD: u8 = 12;

/// A place in a stream of records.
pub(super) struct Thrift<R> {
    source: R,
    depth: usize,
}

/// The type of a field.
#[derive(Clone, Copy)]
pub(super) struct Kind(u8);

impl<R: Read> Thrift<R> {
    pub(super) const fn new(source: R) -> Self {
        Self { source, depth: 0 }
    }

    /// Reads a record. `field` is asked about each field: it reads it and says true, or leaves it and says false.
    pub(super) fn record(
        &mut self,
        field: &mut dyn FnMut(&mut Self, i16, Kind) -> io::Result<bool>,
    ) -> io::Result<()> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(invalid("its records lie too deep in one another"));
        }
        let mut id = 0_i16;
        loop {
            let byte = self.byte()?;
            let kind = byte & 0x0f;
            if kind == 0 {
                break;
            }
            id = match byte >> 4 {
                0 => i16::try_from(self.signed()?).map_err(|_| invalid("a field has no number"))?,
                step => id.wrapping_add(i16::from(step)),
            };
            if !field(self, id, Kind(kind))? {
                self.skip(kind, false)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads a list of records; `element` reads each. Another field than a list is a fault.
    pub(super) fn records(
        &mut self,
        kind: Kind,
        element: &mut dyn FnMut(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        let (size, inner) = match kind.0 {
            LIST => self.list()?,
            _ => return Err(invalid("a field is no list")),
        };
        if inner != RECORD {
            return Err(invalid("a list holds no records"));
        }
        (0..size).try_for_each(|_| element(self))
    }

    /// Reads an integer. Another field is a fault.
    pub(super) fn integer(&mut self, kind: Kind) -> io::Result<i64> {
        match kind.0 {
            4..=6 => self.signed(),
            _ => Err(invalid("a field is no integer")),
        }
    }

    fn skip(&mut self, kind: u8, in_list: bool) -> io::Result<()> {
        match kind {
            // Of a field the type says all; in a list each has a byte.
            TRUE | FALSE if !in_list => Ok(()),
            TRUE | FALSE | BYTE => self.byte().map(drop),
            4..=6 => self.unsigned().map(drop),
            DOUBLE => self.pass(8),
            BINARY => {
                let length = self.unsigned()?;
                self.pass(length)
            }
            LIST | SET => {
                let (size, inner) = self.list()?;
                (0..size).try_for_each(|_| self.inner(inner))
            }
            MAP => {
                let size = self.unsigned()?;
                if size == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                (0..size).try_for_each(|_| {
                    self.inner(kinds >> 4)?;
                    self.inner(kinds & 0x0f)
                })
            }
            RECORD => self.record(&mut |_, _, _| Ok(false)),
            _ => Err(invalid("a field has an unknown type")),
        }
    }

    /// Skips what stands in a list or a map.
    fn inner(&mut self, kind: u8) -> io::Result<()> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(invalid("its records lie too deep in one another"));
        }
        self.skip(kind, true)?;
        self.depth -= 1;
        Ok(())
    }

    fn list(&mut self) -> io::Result<(u64, u8)> {
        let byte = self.byte()?;
        let size = match byte >> 4 {
            15 => self.unsigned()?,
            size => u64::from(size),
        };
        Ok((size, byte & 0x0f))
    }

    fn pass(&mut self, length: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
        match passed == length {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.source.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn unsigned(&mut self) -> io::Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(invalid("a number does not end"))
    }

    fn signed(&mut self) -> io::Result<i64> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2: a binary of 3 bytes, 5: 300, 6: a list of two records with 1: -1 each, 20: true.
    const RECORD_BYTES: [u8; 20] = [
        0x28, 3, b'a', b'b', b'c', 0x35, 0xd8, 0x04, 0x19, 0x2c, 0x15, 0x01, 0, 0x15, 0x01, 0,
        0x01, 40, 0, 99,
    ];

    #[test]
    fn wanted_fields_are_read_and_others_are_passed_over() {
        let mut source = RECORD_BYTES.as_slice();
        let (mut integer, mut elements, mut ids) = (0, Vec::new(), Vec::new());
        Thrift::new(&mut source)
            .record(&mut |thrift, id, kind| {
                ids.push(id);
                match id {
                    5 => integer = thrift.integer(kind)?,
                    6 => thrift.records(kind, &mut |thrift| {
                        thrift.record(&mut |thrift, _, kind| {
                            elements.push(thrift.integer(kind)?);
                            Ok(true)
                        })
                    })?,
                    _ => return Ok(false),
                }
                Ok(true)
            })
            .unwrap();
        assert_eq!(
            (integer, elements, ids),
            (300, vec![-1, -1], vec![2, 5, 6, 20])
        );
        assert_eq!(source, [99]);
    }

    #[test]
    fn a_record_that_is_cut_or_lies_too_deep_is_refused() {
        for length in 0..RECORD_BYTES.len() - 1 {
            let cut = &RECORD_BYTES[..length];
            assert!(Thrift::new(cut).record(&mut |_, _, _| Ok(false)).is_err());
        }
        let deep = vec![0x1c; 1_000_000];
        let records = Thrift::new(deep.as_slice()).record(&mut |_, _, _| Ok(false));
        assert!(records.unwrap_err().to_string().contains("too deep"));
        let lists = vec![0x19; 1_000_000];
        let lists = Thrift::new(lists.as_slice()).record(&mut |_, _, _| Ok(false));
        assert!(lists.unwrap_err().to_string().contains("too deep"));
    }
}
