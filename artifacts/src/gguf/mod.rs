//! GGUF files: versions 2 and 3, read in place, and a writer of small ones.
//!
//! The layout is that of `gguf.md` in the ggml project. Nothing in the file is trusted: every count, length and offset
//! is checked against what is there before memory is taken for it.

mod cursor;
mod dequantize;
mod metadata;
mod tensor_type;
mod write;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use metadata::{Array, Value};
pub use tensor_type::TensorType;
pub use write::{Entry, TensorData, write};

use crate::foreign_format;
use crate::mapped_file::MappedFile;
use crate::tensor_places::{Claim, Layout, elements, places};
use cursor::Cursor;

/// The most dimensions that ggml has.
const MAX_DIMENSIONS: u32 = 4;
/// The most tensors that are accepted; the largest models have some thousands.
const MAX_TENSORS: u64 = 1 << 20;
/// The most metadata entries that are accepted.
const MAX_ENTRIES: u64 = 1 << 16;
/// The alignment where the metadata names none.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The greatest alignment that is accepted.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// What can be wrong with a GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: not a valid GGUF file: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// No tensor has this name.
    #[error("{}: no tensor is named `{name}`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// The tensor's type cannot be dequantised.
    #[error(
        "{}: tensor `{name}` has type {found}, expected {}: take a file quantised in one of these",
        path.display(),
        dequantize::supported()
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: TensorType,
    },
    /// The caller's buffer or rows do not fit the tensor.
    #[error("{}: tensor `{name}`: {message}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What does not fit.
        message: String,
    },
}

/// One tensor's entry.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// The type of its blocks.
    pub tensor_type: TensorType,
    /// Its shape, row-major: the slowest dimension first, the reverse of how the file has it.
    pub shape: Vec<usize>,
    /// Where its bytes lie in the file.
    bytes: Range<usize>,
}

impl TensorInfo {
    /// Elements in all.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements of a row, which is the unit of dequantisation.
    pub fn row_length(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows in all.
    pub fn rows(&self) -> usize {
        match self.row_length() {
            0 => 0,
            length => self.elements() / length,
        }
    }
}

/// What a header says, checked.
#[derive(Debug)]
struct Header {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// An open file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: MappedFile,
    header: Header,
}

impl GgufFile {
    /// Opens and checks the file at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let map = MappedFile::open(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        let header = parse(&map).map_err(|message| Error::Invalid {
            path: path.to_owned(),
            message,
        })?;
        Ok(Self {
            path: path.to_owned(),
            map,
            header,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of the whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The value of `key`.
    pub fn metadata(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    /// The keys of the metadata, in order.
    pub fn metadata_keys(&self) -> impl Iterator<Item = &str> {
        self.header.metadata.keys().map(String::as_str)
    }

    /// All tensors, in order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.header
            .tensors
            .iter()
            .map(|(name, info)| (name.as_str(), info))
    }

    /// The entry of the tensor called `name`.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, Error> {
        self.header.tensors.get(name).ok_or_else(|| Error::Missing {
            path: self.path.clone(),
            name: name.to_owned(),
        })
    }

    /// The bytes of the tensor called `name`, as stored.
    pub fn tensor_bytes(&self, name: &str) -> Result<&[u8], Error> {
        let info = self.tensor(name)?;
        self.map
            .get(info.bytes.clone())
            .ok_or_else(|| self.mismatch(name, "it lies outside the file".to_owned()))
    }

    /// Dequantises a whole tensor into `out`, which holds exactly its elements, row-major.
    pub fn dequantize(&self, name: &str, out: &mut [f32]) -> Result<(), Error> {
        let rows = self.tensor(name)?.rows();
        self.dequantize_rows(name, 0..rows, out)
    }

    /// Dequantises some rows into `out`, which holds exactly their elements. Rows are independent, so that several
    /// threads can share a tensor.
    pub fn dequantize_rows(
        &self,
        name: &str,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let info = self.tensor(name)?;
        if rows.start > rows.end || rows.end > info.rows() {
            let message = format!("rows {rows:?} were asked for, it has {}", info.rows());
            return Err(self.mismatch(name, message));
        }
        let wanted = rows.len() * info.row_length();
        if out.len() != wanted {
            let message = format!("the buffer holds {} elements, expected {wanted}", out.len());
            return Err(self.mismatch(name, message));
        }
        let row_bytes = info.tensor_type.bytes_of(info.row_length()).unwrap_or(0);
        let bytes = self
            .tensor_bytes(name)?
            .get(rows.start * row_bytes..rows.end * row_bytes)
            .ok_or_else(|| self.mismatch(name, "its rows lie outside the file".to_owned()))?;
        if dequantize::dequantize(info.tensor_type, bytes, out) {
            Ok(())
        } else {
            Err(Error::Unsupported {
                path: self.path.clone(),
                name: name.to_owned(),
                found: info.tensor_type,
            })
        }
    }

    fn mismatch(&self, name: &str, message: String) -> Error {
        Error::Mismatch {
            path: self.path.clone(),
            name: name.to_owned(),
            message,
        }
    }
}

/// Parses and checks everything before the tensors' data.
fn parse(bytes: &[u8]) -> Result<Header, String> {
    let mut cursor = Cursor::new(bytes);
    if !bytes.starts_with(b"GGUF") {
        let known = foreign_format::recognised(bytes).map(|message| format!(": {message}"));
        return Err(format!(
            "it does not begin with `GGUF`{}",
            known.unwrap_or_default()
        ));
    }
    cursor.take(4)?;
    let version = cursor.u32()?;
    if version.swap_bytes() == 2 || version.swap_bytes() == 3 {
        return Err("it is big-endian, expected a little-endian file".to_owned());
    }
    if !(2..=3).contains(&version) {
        return Err(format!("its version is {version}, expected 2 or 3"));
    }
    let tensor_count = cursor.u64()?;
    let entry_count = cursor.u64()?;
    if tensor_count > MAX_TENSORS || entry_count > MAX_ENTRIES {
        return Err(format!(
            "it claims {tensor_count} tensors and {entry_count} metadata entries, expected at most \
             {MAX_TENSORS} and {MAX_ENTRIES}"
        ));
    }
    let metadata = metadata::read(&mut cursor, entry_count)?;
    let alignment = alignment(&metadata)?;
    let tensors = read_tensors(&mut cursor, tensor_count, alignment)?;
    Ok(Header { metadata, tensors })
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, String> {
    let Some(value) = metadata.get("general.alignment") else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    value
        .as_u64()
        .filter(|a| a.is_power_of_two() && *a <= MAX_ALIGNMENT)
        .ok_or_else(|| {
            format!(
                "general.alignment is {value}, expected a power of two of at most {MAX_ALIGNMENT}"
            )
        })
}

/// A tensor's entry before the start of the data is known.
struct RawTensor {
    tensor_type: TensorType,
    shape: Vec<usize>,
}

fn read_tensors(
    cursor: &mut Cursor<'_>,
    count: u64,
    alignment: u64,
) -> Result<BTreeMap<String, TensorInfo>, String> {
    let mut claims = Vec::new();
    let mut raw = BTreeMap::new();
    for number in 1..=count {
        let (claim, tensor) = read_tensor(cursor)
            .map_err(|message| format!("entry {number} of its {count} tensors: {message}"))?;
        if raw.insert(claim.name.clone(), tensor).is_some() {
            return Err(format!("tensor `{}` is there twice", claim.name));
        }
        claims.push(claim);
    }
    let layout = Layout {
        start: cursor.position().next_multiple_of(alignment as usize),
        length: cursor.len(),
        alignment,
        without_gaps: false,
    };
    let mut places = places(claims, layout)?;
    let tensor = |(name, raw): (String, RawTensor)| {
        let info = TensorInfo {
            tensor_type: raw.tensor_type,
            shape: raw.shape,
            bytes: places.remove(&name)?,
        };
        Some((name, info))
    };
    Ok(raw.into_iter().filter_map(tensor).collect())
}

fn read_tensor(cursor: &mut Cursor<'_>) -> Result<(Claim, RawTensor), String> {
    let name = cursor.name()?;
    let dimensions = cursor.u32()?;
    if dimensions > MAX_DIMENSIONS {
        return Err(format!(
            "tensor `{name}` has {dimensions} dimensions, expected at most {MAX_DIMENSIONS}"
        ));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = usize::try_from(cursor.u64()?)
            .map_err(|_| format!("tensor `{name}` has a dimension beyond this machine"))?;
        shape.push(size);
    }
    shape.reverse();
    let number = cursor.u32()?;
    let tensor_type = TensorType::from_number(number).ok_or_else(|| {
        format!("tensor `{name}` has type number {number}, which this reader does not know")
    })?;
    let offset = cursor.u64()?;
    let row_length = shape.last().copied().unwrap_or(1);
    if !row_length.is_multiple_of(tensor_type.block_length()) {
        return Err(format!(
            "tensor `{name}` has rows of {row_length} elements, expected a multiple of {} for type {tensor_type}",
            tensor_type.block_length()
        ));
    }
    let size = tensor_type
        .bytes_of(elements(&name, &shape)?)
        .ok_or_else(|| format!("tensor `{name}` is larger than this machine can hold"))?;
    let claim = Claim { name, offset, size };
    Ok((claim, RawTensor { tensor_type, shape }))
}

#[cfg(test)]
mod tests;
