//! The reader of GGUF files, the metadata of their tokenizers, and every dequantiser.

use std::ops::Range;

use finetune_artifacts::gguf::GgufFile;

use crate::driver::{Scratch, fuzz};
use crate::{BUDGET, fixture};

/// The most elements of a tensor that are dequantised for one changed file.
const ELEMENTS: usize = 1 << 14;

#[test]
fn a_changed_gguf_file_is_refused_or_its_tensors_lie_apart_within_it() {
    let scratch = Scratch::new();
    let seeds = [std::fs::read(fixture("gguf/q4_1.gguf")).unwrap()];
    fuzz("gguf", BUDGET, &seeds, |bytes| {
        let Ok(file) = GgufFile::open(&scratch.write(bytes)) else {
            return;
        };
        let start = file.bytes().as_ptr() as usize;
        let mut places: Vec<Range<usize>> = Vec::new();
        for (name, info) in file.tensors() {
            let tensor = file.tensor_bytes(name).unwrap();
            let from = tensor.as_ptr() as usize - start;
            assert!(from + tensor.len() <= bytes.len());
            if !tensor.is_empty() {
                places.push(from..from + tensor.len());
            }
            let rows = info.rows().min(ELEMENTS / info.row_length().max(1));
            let mut out = vec![0.0; rows * info.row_length()];
            // A type that is not supported is refused, which is fine.
            let _ = file.dequantize_rows(name, 0..rows, &mut out);
        }
        places.sort_by_key(|place| place.start);
        assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start));
        for key in file.metadata_keys() {
            let value = file.metadata(key).unwrap();
            assert!(value.to_string().len() <= 8 * bytes.len());
        }
    });
}

/// The metadata alone: every change hits a key or a value.
#[test]
fn changed_metadata_of_a_gguf_file_are_refused_or_read_whole() {
    let scratch = Scratch::new();
    let whole = std::fs::read(fixture("gguf/q4_1.gguf")).unwrap();
    let name = b"token_embd.weight";
    let end = whole
        .windows(name.len())
        .position(|part| part == name)
        .unwrap();
    // No tensors: the name of the first one, and its length before it, are left out.
    let mut header = whole[..end - 8].to_vec();
    header[8..16].copy_from_slice(&0_u64.to_le_bytes());
    fuzz("gguf-metadata", BUDGET, &[header], |bytes| {
        let Ok(file) = GgufFile::open(&scratch.write(bytes)) else {
            return;
        };
        let held: usize = file
            .metadata_keys()
            .map(|key| {
                let value = file.metadata(key).unwrap();
                let strings = value.as_strings().map_or(0, <[String]>::len);
                let integers = value.as_integers().map_or(0, <[i64]>::len);
                key.len() + strings + integers
            })
            .sum();
        assert!(held <= bytes.len());
    });
}
