//! Safetensors files: read in place, written byte for byte as the reference implementation does.
//!
//! Reading is strict: names, shapes, offsets and sizes are checked before the first tensor is lent out. It must never
//! copy a whole file, and never trust a number of the header.

mod header;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;
use safetensors::tensor::View;

pub use safetensors::Dtype;

use crate::mapped_file::MappedFile;
use header::{Header, parse};

/// What can be wrong with a safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: not a valid safetensors file: {message}", path.display())]
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
}

/// One tensor, lent out of the file.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'file> {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: &'file [usize],
    /// Its elements, little-endian; not necessarily aligned to their size.
    pub bytes: &'file [u8],
}

impl TensorView<'_> {
    /// The elements as `f32`; `None` where they are of another type.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        self.elements(Dtype::F32, f32::from_le_bytes)
    }

    /// The elements as `u32`; `None` where they are of another type.
    pub fn to_u32(&self) -> Option<Vec<u32>> {
        self.elements(Dtype::U32, u32::from_le_bytes)
    }

    /// The elements as `u64`; `None` where they are of another type.
    pub fn to_u64(&self) -> Option<Vec<u64>> {
        self.elements(Dtype::U64, u64::from_le_bytes)
    }

    fn elements<T, const N: usize>(&self, dtype: Dtype, from: fn([u8; N]) -> T) -> Option<Vec<T>> {
        let (chunks, rest) = self.bytes.as_chunks::<N>();
        (self.dtype == dtype && rest.is_empty()).then(|| chunks.iter().map(|c| from(*c)).collect())
    }
}

/// An open file.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    map: MappedFile,
    header: Header,
}

impl SafetensorsFile {
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

    /// The names of the tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.entries.keys().map(String::as_str)
    }

    /// The value of `key` in the header's own metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata.get(key).map(String::as_str)
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, Error> {
        self.header
            .entries
            .get(name)
            .and_then(|entry| {
                Some(TensorView {
                    dtype: entry.dtype,
                    shape: &entry.shape,
                    bytes: self.map.get(entry.bytes.clone())?,
                })
            })
            .ok_or_else(|| Error::Missing {
                path: self.path.clone(),
                name: name.to_owned(),
            })
    }

    /// The bytes of the whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// A tensor to write.
#[derive(Clone, Copy, Debug)]
pub struct TensorData<'data> {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: &'data [usize],
    /// Its elements, little-endian.
    pub bytes: &'data [u8],
}

impl View for TensorData<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.bytes.into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes `tensors` to `path`, complete or not at all, in the order and layout of the reference implementation.
///
/// One pair of metadata at most: the reference writes several in no fixed order, and the same content must give the same
/// bytes.
pub fn write<'name, 'data>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'name str, TensorData<'data>)>,
    metadata: Option<(&str, &str)>,
) -> Result<(), Error> {
    let metadata = metadata.map(|(key, value)| HashMap::from([(key.to_owned(), value.to_owned())]));
    safetensors::serialize_to_file(tensors, metadata, path)
        .map_err(|error| unwritten(path, error))?;
    readable_by_all(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })
}

/// Why a file could not be written: tensors that make no valid one, or the file system.
fn unwritten(path: &Path, error: SafeTensorError) -> Error {
    let path = path.to_owned();
    match error {
        SafeTensorError::IoError(source) => Error::Io { path, source },
        other => Error::Invalid {
            path,
            message: other.to_string(),
        },
    }
}

/// A tensor that is made when its turn comes to be written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TensorPlan {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
}

impl TensorPlan {
    /// The bytes that it takes.
    pub fn length(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// The same as [`write`] for tensors that are not all in memory: `make` is asked for the bytes of each, little-endian, one
/// after the other in the order of the file. Its error ends the writing, and no file is left.
pub fn write_lazily<E: From<Error>>(
    path: &Path,
    plans: &[TensorPlan],
    metadata: Option<(&str, &str)>,
    make: &dyn Fn(&TensorPlan) -> Result<Vec<u8>, E>,
) -> Result<(), E> {
    let fault = RefCell::new(None);
    let invalid = |message: String| Error::Invalid {
        path: path.to_owned(),
        message,
    };
    let tensors = plans.iter().map(|plan| {
        let lazy = Lazy {
            plan,
            make,
            fault: &fault,
            invalid: &invalid,
        };
        (plan.name.as_str(), lazy)
    });
    let metadata = metadata.map(|(key, value)| HashMap::from([(key.to_owned(), value.to_owned())]));
    let written = safetensors::serialize_to_file(tensors, metadata, path);
    if let Some(fault) = fault.take() {
        // What is there is torn; that it cannot be removed would hide why.
        let _ = std::fs::remove_file(path);
        return Err(fault);
    }
    written.map_err(|error| unwritten(path, error))?;
    readable_by_all(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(())
}

struct Lazy<'a, E> {
    plan: &'a TensorPlan,
    make: &'a dyn Fn(&TensorPlan) -> Result<Vec<u8>, E>,
    /// The first error of any tensor: the reference's interface has no place for one.
    fault: &'a RefCell<Option<E>>,
    invalid: &'a dyn Fn(String) -> Error,
}

impl<E: From<Error>> View for Lazy<'_, E> {
    fn dtype(&self) -> Dtype {
        self.plan.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.plan.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut fault = self.fault.borrow_mut();
        if fault.is_some() {
            return Cow::Borrowed(&[]);
        }
        match (self.make)(self.plan) {
            Ok(bytes) if bytes.len() == self.data_len() => Cow::Owned(bytes),
            Ok(bytes) => {
                let message = format!(
                    "tensor `{}` has {} bytes, expected {}",
                    self.plan.name,
                    bytes.len(),
                    self.data_len()
                );
                *fault = Some((self.invalid)(message).into());
                Cow::Borrowed(&[])
            }
            Err(error) => {
                *fault = Some(error);
                Cow::Borrowed(&[])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.plan.length()
    }
}

/// The reference writes through a temporary file that only its owner may read; a published file is for everyone.
fn readable_by_all(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests;
