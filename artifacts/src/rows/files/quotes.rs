//! Whether the quotes of a record of CSV are as RFC 4180 has them.
//!
//! The reader takes any: the end of the file ends an open field, and where text follows a closing quote it reads on. A quote
//! that is missing would so put the rows after it into a field, and nobody would know.

use crate::rows::fault::{FaultClass, Problem};

/// What is wrong with the quotes of a record, and the byte at which the field's quote opens.
pub(super) fn fault(record: &[u8]) -> Option<(usize, Problem)> {
    if !record.contains(&b'"') {
        return None;
    }
    let mut at = 0;
    for field in 1_usize.. {
        if record.get(at) == Some(&b'"') {
            let open = at;
            let fault = |what: String| {
                let message = format!(
                    "{what}: close the quote that opens here, or write a quote that belongs to the text twice, in a field within \
                     quotes"
                );
                Some((open, Problem::new(FaultClass::InvalidCsv, message)))
            };
            let Some(closed) = after_quoted(record, open + 1) else {
                return fault(format!(
                    "the quote of field {field} opens and is closed nowhere in the rest of the file"
                ));
            };
            if !matches!(record.get(closed), None | Some(b',' | b'\r' | b'\n')) {
                return fault(format!(
                    "text follows the closing quote of field {field}, expected a comma or the end of the row"
                ));
            }
            at = closed;
        }
        at += 1 + record[at..].iter().position(|byte| *byte == b',')?;
    }
    None
}

/// The place after the quote that closes the field whose text begins at `at`; two quotes are one of the text.
fn after_quoted(record: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += 1 + record[at..].iter().position(|byte| *byte == b'"')?;
        if record.get(at) != Some(&b'"') {
            return Some(at);
        }
        at += 1;
    }
}
