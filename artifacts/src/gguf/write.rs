//! Writes GGUF files, version 3, little-endian, in the layout of `gguf.md` in the ggml project.

use std::io::{BufWriter, Write};
use std::path::Path;

use super::{DEFAULT_ALIGNMENT, Error};

/// A value of the metadata, in the type in which it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry<'a> {
    /// A text.
    Text(&'a str),
    /// An integer of 32 bits.
    Unsigned(u32),
    /// A float of 32 bits.
    Float(f32),
}

/// A tensor in fp32.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorData<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its shape, row-major: the slowest dimension first.
    pub shape: &'a [usize],
    /// Its elements.
    pub values: &'a [f32],
}

/// `ggml_type` of fp32.
const F32: u32 = 0;

/// Writes a file with these metadata and tensors, in their order.
pub fn write(
    path: &Path,
    metadata: &[(&str, Entry<'_>)],
    tensors: &[TensorData<'_>],
) -> Result<(), Error> {
    for tensor in tensors {
        let expected: usize = tensor.shape.iter().product();
        if tensor.values.len() != expected {
            return Err(Error::Mismatch {
                path: path.to_owned(),
                name: tensor.name.to_owned(),
                message: format!(
                    "it has {} elements, expected {expected} for shape {:?}",
                    tensor.values.len(),
                    tensor.shape
                ),
            });
        }
    }
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::create(path).map_err(io)?;
    let mut writer = BufWriter::new(file);
    write_all(&mut writer, metadata, tensors).map_err(io)?;
    writer.flush().map_err(io)
}

fn write_all(
    writer: &mut impl Write,
    metadata: &[(&str, Entry<'_>)],
    tensors: &[TensorData<'_>],
) -> std::io::Result<()> {
    let header = header(metadata, tensors);
    writer.write_all(&header)?;
    pad(writer, header.len() as u64)?;
    for tensor in tensors {
        for value in tensor.values {
            writer.write_all(&value.to_le_bytes())?;
        }
        pad(writer, bytes_of(tensor))?;
    }
    Ok(())
}

/// All before the data.
fn header(metadata: &[(&str, Entry<'_>)], tensors: &[TensorData<'_>]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, entry) in metadata {
        put_text(&mut bytes, key);
        // The numbers are those of `gguf_metadata_value_type`.
        match entry {
            Entry::Unsigned(value) => {
                bytes.extend(4_u32.to_le_bytes());
                bytes.extend(value.to_le_bytes());
            }
            Entry::Float(value) => {
                bytes.extend(6_u32.to_le_bytes());
                bytes.extend(value.to_le_bytes());
            }
            Entry::Text(value) => {
                bytes.extend(8_u32.to_le_bytes());
                put_text(&mut bytes, value);
            }
        }
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        put_text(&mut bytes, tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        for size in tensor.shape.iter().rev() {
            bytes.extend((*size as u64).to_le_bytes());
        }
        bytes.extend(F32.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset = (offset + bytes_of(tensor)).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    bytes
}

fn bytes_of(tensor: &TensorData<'_>) -> u64 {
    size_of_val(tensor.values) as u64
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Zeros up to the next place where data may begin.
fn pad(writer: &mut impl Write, written: u64) -> std::io::Result<()> {
    let missing = written.next_multiple_of(DEFAULT_ALIGNMENT) - written;
    writer.write_all(&vec![0; missing as usize])
}

#[cfg(test)]
mod tests {
    use super::super::GgufFile;
    use super::*;

    const METADATA: [(&str, Entry<'_>); 3] = [
        ("general.architecture", Entry::Text("llama")),
        ("general.file_type", Entry::Unsigned(0)),
        ("adapter.lora.alpha", Entry::Float(1.5)),
    ];

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        // Neither has a multiple of the alignment.
        let (first, second) = ([1.0, -2.0, f32::MIN_POSITIVE], [0.5_f32; 10]);
        let tensors = [
            TensorData {
                name: "a.lora_a",
                shape: &[1, 3],
                values: &first,
            },
            TensorData {
                name: "a.lora_b",
                shape: &[5, 2],
                values: &second,
            },
        ];
        write(&path, &METADATA, &tensors).unwrap();

        let file = GgufFile::open(&path).unwrap();
        let text = |key: &str| file.metadata(key).unwrap().to_string();
        assert_eq!(text("general.architecture"), "\"llama\"");
        assert_eq!(text("general.file_type"), "0");
        assert_eq!(text("adapter.lora.alpha"), "1.5");
        for tensor in tensors {
            let info = file.tensor(tensor.name).unwrap();
            assert_eq!(info.shape, tensor.shape);
            assert_eq!(info.tensor_type.name(), "F32");
            let mut values = vec![0.0; tensor.values.len()];
            file.dequantize(tensor.name, &mut values).unwrap();
            assert_eq!(values, tensor.values);
        }
    }

    #[test]
    fn a_tensor_of_another_length_than_its_shape_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let tensor = TensorData {
            name: "a",
            shape: &[2, 2],
            values: &[0.0; 3],
        };
        let error = write(&path, &METADATA, &[tensor]).unwrap_err().to_string();
        assert!(
            error.contains("tensor `a`: it has 3 elements, expected 4"),
            "{error}"
        );
        assert!(!path.exists());
    }
}
