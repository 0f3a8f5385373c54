//! What a Parquet file claims of itself, held against its size before memory is taken for it.
//!
//! Compression and run lengths let a file of a kilobyte stand for gigabytes. What is more than a data set can be is refused.

use std::io::{self, Read};

use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::ChunkReader;

use super::damaged;
use super::thrift::Thrift;
use crate::rows::fault::Problem;

/// How many times its own size a file may stand for.
const EXPANSION: u64 = 1000;
/// What any file may stand for, in bytes.
const SMALL: u64 = 16 << 20;
/// How deep columns may lie in one another.
const DEEPEST_SCHEMA: usize = 32;
/// What a value takes beside its text, in bytes.
const VALUE: u64 = 32;

/// How many bytes the rows of a file of `length` bytes may take.
pub(super) const fn allowance(length: u64) -> u64 {
    length.saturating_mul(EXPANSION).saturating_add(SMALL)
}

/// Looks at the tree of columns in a footer: each promises its children, and trees are built by recursion.
pub(super) fn check_footer(footer: &[u8]) -> Result<(), Problem> {
    let mut children: Vec<i64> = Vec::new();
    let mut encrypted = false;
    Thrift::new(footer)
        .record(&mut |thrift, id, kind| {
            // Columns can be encrypted where the footer is not: then it names the cipher.
            encrypted |= id == 8;
            if id != 2 {
                return Ok(false);
            }
            thrift.records(kind, &mut |thrift| {
                children.push(0);
                thrift.record(&mut |thrift, id, kind| {
                    if id != 5 {
                        return Ok(false);
                    }
                    if let Some(count) = children.last_mut() {
                        *count = thrift.integer(kind)?;
                    }
                    Ok(true)
                })
            })?;
            Ok(true)
        })
        .map_err(|error| damaged(format!("its footer cannot be read: {error}")))?;
    if encrypted {
        return Err(super::encrypted());
    }
    // How many children each open column still waits for.
    let mut open: Vec<i64> = Vec::new();
    let most = children.len() as i64;
    for count in children {
        if !(0..most).contains(&count) {
            return Err(damaged(format!(
                "its footer says that a column has {count} parts, of {most} columns in all"
            )));
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if count > 0 {
            open.push(count);
        }
        if open.len() > DEEPEST_SCHEMA {
            return Err(damaged(format!(
                "its columns lie more than {DEEPEST_SCHEMA} deep in one another"
            )));
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Ok(())
}

/// Looks at the place of a column and at every page of it: how much each says that it holds.
pub(super) fn check_pages<R: ChunkReader>(
    file: &R,
    column: &ColumnChunkMetaData,
) -> Result<(), Problem> {
    let name = column.column_path().string();
    if column.file_path().is_some() {
        return Err(damaged(format!("column `{name}` lies in another file")));
    }
    let start = column
        .dictionary_page_offset()
        .unwrap_or_else(|| column.data_page_offset());
    let place = u64::try_from(start)
        .ok()
        .zip(u64::try_from(column.compressed_size()).ok())
        .and_then(|(start, length)| Some((start, start.checked_add(length)?)))
        .filter(|(_, end)| *end <= file.len());
    let Some((mut at, end)) = place else {
        return Err(damaged(format!(
            "column `{name}` lies outside of it: is the file cut off?"
        )));
    };
    if u64::try_from(column.data_page_offset()).is_err() || column.num_values() < 0 {
        return Err(damaged(format!("column `{name}` has numbers below 0")));
    }
    let most = allowance(file.len());
    while at < end {
        let header = Header::read(file, at, end - at)
            .map_err(|error| damaged(format!("column `{name}` has a broken page: {error}")))?;
        let values = header.values.max(header.dictionary_values);
        let claims = u64::try_from(header.uncompressed)
            .ok()
            .zip(u64::try_from(values).ok());
        let compressed = u64::try_from(header.compressed).ok();
        let (Some((bytes, values)), Some(compressed)) = (claims, compressed) else {
            return Err(damaged(format!(
                "column `{name}` has a page with lengths below 0"
            )));
        };
        // A dictionary is laid out in memory as it is claimed: each of its values takes a byte at least.
        let too_much = bytes > most
            || values > most / VALUE
            || u64::try_from(header.dictionary_values).is_ok_and(|values| values > bytes);
        if too_much {
            return Err(damaged(format!(
                "column `{name}` has a page that claims {values} values in {bytes} bytes, more than a file of {} bytes \
                 can mean",
                file.len()
            )));
        }
        // Compression that finds nothing to save adds little; a stream that goes on behind what it claims is no page.
        if compressed > bytes.saturating_add(bytes / 4).saturating_add(1024) {
            return Err(damaged(format!(
                "column `{name}` has a page of {bytes} bytes that takes {compressed} compressed"
            )));
        }
        at = at.saturating_add(header.length).saturating_add(compressed);
    }
    if at > end {
        return Err(damaged(format!(
            "column `{name}` has a page that does not end in it"
        )));
    }
    Ok(())
}

/// What stands before a page.
#[derive(Default)]
struct Header {
    uncompressed: i64,
    compressed: i64,
    values: i64,
    dictionary_values: i64,
    /// Its own length.
    length: u64,
}

impl Header {
    fn read<R: ChunkReader>(file: &R, at: u64, most: u64) -> io::Result<Self> {
        let source = file.get_read(at).map_err(io::Error::other)?;
        let mut source = source.take(most);
        let mut header = Self::default();
        Thrift::new(&mut source).record(&mut |thrift, id, kind| {
            match id {
                2 => header.uncompressed = thrift.integer(kind)?,
                3 => header.compressed = thrift.integer(kind)?,
                // A page of values, a dictionary, a page of values in the second version.
                5 | 7 | 8 => thrift.record(&mut |thrift, inner, kind| {
                    if inner != 1 {
                        return Ok(false);
                    }
                    match id {
                        7 => header.dictionary_values = thrift.integer(kind)?,
                        _ => header.values = thrift.integer(kind)?,
                    }
                    Ok(true)
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        header.length = most - source.limit();
        Ok(header)
    }
}
