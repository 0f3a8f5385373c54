//! Safetensors files: read in place, written byte for byte as the reference implementation does.
//!
//! Reading is strict: names, shapes, offsets and sizes are checked before the first tensor is lent out. It must never
//! copy a whole file, and never trust a number of the header.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::View;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

pub use safetensors::Dtype;

use crate::mapped_file::MappedFile;

/// The longest tensor name that is accepted, in bytes.
const MAX_NAME: usize = 1024;
/// The most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 8;
/// Bytes of the length that stands before the header.
const LENGTH: usize = 8;

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

/// A tensor's place in the file.
#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

/// What a header says, checked.
#[derive(Debug)]
struct Header {
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
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
                    bytes: self.map.get(entry.start..entry.end)?,
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
    safetensors::serialize_to_file(tensors, metadata, path).map_err(|error| Error::Invalid {
        path: path.to_owned(),
        message: error.to_string(),
    })?;
    readable_by_all(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })
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
    written.map_err(|error| invalid(error.to_string()))?;
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

/// Parses and checks the header of a whole file.
fn parse(bytes: &[u8]) -> Result<Header, String> {
    let (length, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let text = bytes
        .get(LENGTH..LENGTH + length)
        .ok_or("the header is cut short")?;
    refuse_duplicates(text)?;
    let mut entries = BTreeMap::new();
    for name in metadata.offset_keys() {
        let info = metadata
            .info(&name)
            .ok_or_else(|| format!("tensor `{name}` has no entry"))?;
        check_name(&name)?;
        if info.shape.len() > MAX_DIMENSIONS {
            return Err(format!(
                "tensor `{name}` has {} dimensions, expected at most {MAX_DIMENSIONS}",
                info.shape.len()
            ));
        }
        let (start, end) = info.data_offsets;
        let data = LENGTH + length;
        let entry = Entry {
            dtype: info.dtype,
            shape: info.shape.clone(),
            start: data + start,
            end: data + end,
        };
        if entry.end > bytes.len() || entry.start > entry.end {
            return Err(format!("tensor `{name}` lies outside the file"));
        }
        entries.insert(name, entry);
    }
    let metadata = metadata.metadata().clone().unwrap_or_default();
    Ok(Header {
        entries,
        metadata: metadata.into_iter().collect(),
    })
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        let shown: String = name.chars().take(40).collect();
        return Err(format!(
            "a tensor is named {shown:?}, expected 1 to {MAX_NAME} bytes without control characters"
        ));
    }
    Ok(())
}

/// JSON lets a later key replace an earlier one, so one name could be read as two tensors by two readers.
fn refuse_duplicates(header: &[u8]) -> Result<(), String> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Option<String>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut seen = HashSet::new();
            let mut twice = None;
            while let Some(key) = map.next_key::<String>()? {
                map.next_value::<IgnoredAny>()?;
                if let Some(key) = seen.replace(key) {
                    twice = Some(key);
                }
            }
            Ok(twice)
        }
    }
    let twice = serde_json::Deserializer::from_slice(header)
        .deserialize_map(Keys)
        .map_err(|error| error.to_string())?;
    match twice {
        Some(name) => Err(format!("tensor `{name}` is there twice")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    const TWO: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}"#;

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let numbers: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let data = TensorData {
            dtype: Dtype::F32,
            shape: &[1, 2],
            bytes: &numbers,
        };
        write(&path, [("layer.weight", data)], Some(("format", "pt"))).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["layer.weight"]);
        assert_eq!(file.metadata("format"), Some("pt"));
        let tensor = file.tensor("layer.weight").unwrap();
        assert_eq!(tensor.shape, [1, 2]);
        assert_eq!(tensor.to_f32().unwrap(), [1.5, -2.0]);
        assert!(tensor.to_u32().is_none());
        let error = file.tensor("other").unwrap_err().to_string();
        assert!(
            error.ends_with("x.safetensors: no tensor is named `other`"),
            "{error}"
        );
    }

    #[test]
    fn tensors_made_in_turn_give_the_same_file_and_an_error_leaves_none() {
        let folder = tempfile::tempdir().unwrap();
        let [whole, lazy] = ["whole", "lazy"].map(|name| folder.path().join(name));
        let content = |name: &str| name.bytes().cycle().take(8).collect::<Vec<u8>>();
        let names = ["b", "a"];
        let contents = names.map(content);
        let data = names.iter().zip(&contents).map(|(name, bytes)| {
            let data = TensorData {
                dtype: Dtype::F32,
                shape: &[2],
                bytes,
            };
            (*name, data)
        });
        write(&whole, data, Some(("format", "pt"))).unwrap();
        let plans = names.map(|name| TensorPlan {
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape: vec![2],
        });
        let write = |make: &dyn Fn(&TensorPlan) -> Result<Vec<u8>, Error>| {
            write_lazily(&lazy, &plans, Some(("format", "pt")), make)
        };
        write(&|plan| Ok(content(&plan.name))).unwrap();
        assert_eq!(
            std::fs::read(&whole).unwrap(),
            std::fs::read(&lazy).unwrap()
        );

        let error = write(&|_| Ok(vec![0; 7])).unwrap_err().to_string();
        assert!(
            error.contains("tensor `a` has 7 bytes, expected 8"),
            "{error}"
        );
        assert!(!lazy.exists());
    }

    #[test]
    fn overlaps_gaps_wrong_sizes_and_duplicates_are_refused() {
        assert!(parse(&file_of(TWO, &[0; 11])).is_ok());
        for (from, to) in [
            ("[8,11]", "[7,11]"),
            ("[8,11]", "[9,12]"),
            ("[3]", "[4]"),
            ("\"b\"", "\"a\""),
            ("\"b\"", "\"\""),
            ("[3]", "[18446744073709551615,18446744073709551615]"),
        ] {
            let header = TWO.replace(from, to);
            assert!(parse(&file_of(&header, &[0; 12])).is_err(), "{header}");
            assert!(parse(&file_of(&header, &[0; 11])).is_err(), "{header}");
        }
        assert!(
            parse(&file_of(TWO, &[0; 12])).is_err(),
            "bytes after the last tensor"
        );
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_even_where_the_sizes_agree() {
        let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        let error = parse(&file_of(header, &[0])).unwrap_err();
        assert!(error.contains('a'), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn damaged_files_never_panic(at in 0usize..TWO.len() + 19, value: u8, keep in 0usize..TWO.len() + 19) {
            let mut bytes = file_of(TWO, &[0; 11]);
            bytes[at] = value;
            let _ = parse(&bytes);
            let _ = parse(&bytes[..keep]);
        }
    }
}
