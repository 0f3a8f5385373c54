//! The header of a safetensors file: its length in 8 bytes, then a JSON object of tensors and metadata.
//!
//! Stricter than the reference implementation, never more lenient: a name that stands twice, a field that is not known
//! and bytes that belong to no tensor are refused, each by name.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::Dtype;
use crate::foreign_format;
use crate::tensor_places::{Claim, Layout, check_name, elements, places};

/// The most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 8;
/// The longest header that is accepted, in bytes; the largest models have some megabytes.
const MAX_HEADER: u64 = 32 << 20;
/// Bytes of the length that stands before the header.
const LENGTH: usize = 8;
/// The key that is no tensor.
const METADATA: &str = "__metadata__";

/// A tensor's entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Where its bytes lie in the file.
    pub(super) bytes: Range<usize>,
}

/// What a header says, checked.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Parses and checks the header of a whole file.
pub(super) fn parse(bytes: &[u8]) -> Result<Header, String> {
    if let Some(message) = foreign_format::recognised(bytes) {
        return Err(message.to_owned());
    }
    let (length, rest) = bytes.split_first_chunk::<LENGTH>().ok_or_else(|| {
        format!(
            "it has {} bytes, too few for the length of a header",
            bytes.len()
        )
    })?;
    let length = u64::from_le_bytes(*length);
    let most = MAX_HEADER.min(rest.len() as u64);
    if length > most {
        return Err(format!(
            "its header claims {length} bytes, expected at most {most}: is the file complete?"
        ));
    }
    let (text, data) = rest.split_at(length as usize);
    let text = std::str::from_utf8(text).map_err(|error| {
        let at = LENGTH + error.valid_up_to();
        format!("its header is not UTF-8 at byte {at} of the file")
    })?;
    if !text.starts_with('{') {
        return Err("its header does not begin with `{`".to_owned());
    }
    let raw: RawHeader =
        serde_json::from_str(text).map_err(|error| format!("its header: {error}"))?;
    let mut claims = Vec::with_capacity(raw.tensors.len());
    for (name, entry) in &raw.tensors {
        claims.push(claim(name, entry)?);
    }
    let layout = Layout {
        start: bytes.len() - data.len(),
        length: bytes.len(),
        alignment: 1,
        without_gaps: true,
    };
    let mut places = places(claims, layout)?;
    let entries = raw
        .tensors
        .into_iter()
        .filter_map(|(name, entry)| {
            let bytes = places.remove(&name)?;
            let RawEntry { dtype, shape, .. } = entry;
            Some((
                name,
                Entry {
                    dtype,
                    shape,
                    bytes,
                },
            ))
        })
        .collect();
    Ok(Header {
        entries,
        metadata: raw.metadata,
    })
}

fn claim(name: &str, entry: &RawEntry) -> Result<Claim, String> {
    if entry.shape.len() > MAX_DIMENSIONS {
        return Err(format!(
            "tensor `{name}` has {} dimensions, expected at most {MAX_DIMENSIONS}",
            entry.shape.len()
        ));
    }
    let bits = elements(name, &entry.shape)? * entry.dtype.bitsize();
    let (start, end) = entry.data_offsets;
    let size = end.checked_sub(start).ok_or_else(|| {
        format!("tensor `{name}` begins at {start} and ends at {end}, before its beginning")
    })?;
    if !bits.is_multiple_of(8) || size != (bits / 8) as u64 {
        return Err(format!(
            "tensor `{name}` takes {size} bytes, expected {} for {:?} of shape {:?}",
            bits.div_ceil(8),
            entry.dtype,
            entry.shape
        ));
    }
    Ok(Claim {
        name: name.to_owned(),
        offset: start,
        size: bits / 8,
    })
}

/// The header as it is written.
#[derive(Default)]
struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

/// Takes every entry as it comes: JSON lets a later key replace an earlier one, so one name could be read as two tensors
/// by two readers.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = RawHeader;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader::default();
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            let named = |error: A::Error| A::Error::custom(format!("`{name}`: {error}"));
            if name == METADATA {
                let value: Option<BTreeMap<String, String>> = map.next_value().map_err(named)?;
                if metadata.replace(value).is_some() {
                    return Err(A::Error::custom(format!("`{METADATA}` is there twice")));
                }
                continue;
            }
            check_name(&name).map_err(A::Error::custom)?;
            let entry = map.next_value().map_err(named)?;
            header.tensors.push((name, entry));
        }
        header.metadata = metadata.flatten().unwrap_or_default();
        Ok(header)
    }
}
