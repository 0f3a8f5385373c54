//! The reader against the reference's numbers, and against damage.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::safetensors_file::{Dtype, SafetensorsFile};

/// A file in the making: header fields, then data.
#[derive(Clone)]
struct Draft {
    version: u32,
    entries: Vec<(&'static str, u32, Vec<u8>)>,
    tensors: Vec<(&'static str, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
}

fn text(value: &str) -> Vec<u8> {
    let mut bytes = (value.len() as u64).to_le_bytes().to_vec();
    bytes.extend(value.as_bytes());
    bytes
}

impl Draft {
    fn small() -> Self {
        let mut list = 8u32.to_le_bytes().to_vec();
        list.extend(2u64.to_le_bytes());
        list.extend(text("a"));
        list.extend(text("b"));
        Self {
            version: 3,
            entries: vec![
                ("general.architecture", 8, text("llama")),
                ("llama.block_count", 4, 2u32.to_le_bytes().to_vec()),
                ("tokenizer.ggml.tokens", 9, list),
                ("eps", 6, 0.5f32.to_le_bytes().to_vec()),
            ],
            tensors: vec![("f", vec![4, 2], 0, 0), ("q", vec![32], 2, 32)],
            data: [1.0f32; 8]
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .chain([0x00, 0x3c]) // a half-precision 1
                .chain([0x9fu8; 16])
                .collect(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.entries {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for (name, dimensions, kind, offset) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((dimensions.len() as u32).to_le_bytes());
            for size in dimensions {
                bytes.extend(size.to_le_bytes());
            }
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }

    fn open(&self) -> Result<GgufFile, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        GgufFile::open(&path)
    }

    fn fault(&self) -> String {
        self.open().unwrap_err().to_string()
    }
}

#[test]
fn metadata_and_tensors_of_both_versions_are_read() {
    for version in [2, 3] {
        let file = Draft {
            version,
            ..Draft::small()
        }
        .open()
        .unwrap();
        assert_eq!(
            file.metadata("general.architecture").unwrap().as_str(),
            Some("llama")
        );
        assert_eq!(
            file.metadata("llama.block_count").unwrap().as_u64(),
            Some(2)
        );
        assert_eq!(file.metadata("eps").unwrap().as_f64(), Some(0.5));
        let tokens = file.metadata("tokenizer.ggml.tokens").unwrap();
        assert_eq!(tokens.as_strings().unwrap(), ["a", "b"]);
        assert_eq!(file.tensor("f").unwrap().shape, [2, 4]);
        let mut out = [0.0; 32];
        file.dequantize("q", &mut out).unwrap();
        // 0x9f: low half 15 - 8, high half 9 - 8.
        assert_eq!(out[..16], [7.0; 16]);
        assert_eq!(out[16..], [1.0; 16]);
    }
}

#[test]
fn rows_can_be_dequantised_alone_and_a_wrong_buffer_is_refused() {
    let mut draft = Draft::small();
    draft.data[16..20].copy_from_slice(&5.0f32.to_le_bytes());
    let file = draft.open().unwrap();
    let mut row = [0.0; 4];
    file.dequantize_rows("f", 1..2, &mut row).unwrap();
    assert_eq!(
        row.map(f32::to_bits),
        [5.0_f32, 1.0, 1.0, 1.0].map(f32::to_bits)
    );
    assert!(file.dequantize_rows("f", 2..3, &mut row).is_err());
    assert!(file.dequantize("f", &mut row).is_err());
}

#[test]
fn a_type_that_cannot_be_dequantised_is_named_with_its_tensor_and_those_that_can() {
    let mut draft = Draft::small();
    draft.tensors[1] = ("q", vec![256], 23, 32);
    draft.data.resize(32 + 136, 0);
    let file = draft.open().unwrap();
    let error = file
        .dequantize("q", &mut [0.0; 256])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(
            "tensor `q` has type IQ4_XS, expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K \
             or Q6_K: take a file"
        ),
        "{error}"
    );
}

#[test]
fn absurd_counts_wrong_places_and_duplicates_are_refused() {
    let small = Draft::small();
    let mut wrong = small.clone();
    wrong.version = 1;
    assert!(wrong.fault().contains("version is 1, expected 2 or 3"));
    wrong.version = 3u32.swap_bytes();
    assert!(wrong.fault().contains("big-endian"));

    let mut wrong = small.clone();
    wrong.tensors[1].3 = 0;
    assert!(wrong.fault().contains("tensor `f` overlaps `q`"));
    wrong.tensors[1].3 = 33;
    assert!(wrong.fault().contains("expected a multiple of 32"));
    wrong.tensors[1].3 = 64;
    assert!(wrong.fault().contains("beyond the end of the file"));
    wrong.tensors[1].3 = u64::MAX - 31;
    assert!(wrong.fault().contains("beyond the end of the file"));

    let mut wrong = small.clone();
    wrong.tensors[1].1 = vec![31];
    assert!(
        wrong
            .fault()
            .contains("expected a multiple of 32 for type Q4_0")
    );
    wrong.tensors[1].1 = vec![32, u64::MAX / 2, 4];
    assert!(wrong.fault().contains("larger than this machine can hold"));
    wrong.tensors[1].1 = vec![1; 5];
    assert!(wrong.fault().contains("5 dimensions"));
    wrong.tensors[1] = ("q", vec![32], 77, 32);
    assert!(wrong.fault().contains("tensor `q` has type number 77"));
    wrong.tensors[1] = small.tensors[0].clone();
    assert!(wrong.fault().contains("tensor `f` is there twice"));

    let mut wrong = small.clone();
    wrong.entries[2].2[4..12].copy_from_slice(&(1u64 << 40).to_le_bytes());
    assert!(
        wrong
            .fault()
            .contains("metadata key `tokenizer.ggml.tokens`: a list claims")
    );
    wrong.entries = vec![small.entries[1].clone(), small.entries[1].clone()];
    assert!(wrong.fault().contains("`llama.block_count` is there twice"));
    wrong.entries = vec![("general.alignment", 4, 3u32.to_le_bytes().to_vec())];
    assert!(
        wrong
            .fault()
            .contains("general.alignment is 3, expected a power of two")
    );

    let mut absurd = small.bytes();
    absurd[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(parse(&absurd).unwrap_err().contains("it claims"));
}

/// Blocks of random codes under scales from the least to the greatest of half precision.
#[test]
fn every_quantised_type_is_dequantised_to_the_bit() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/fixtures");
    let expected =
        SafetensorsFile::open(&fixtures.join("expected/gguf-blocks.safetensors")).unwrap();
    let mut seen = Vec::new();
    for name in expected
        .names()
        .filter_map(|key| key.strip_suffix(".blocks"))
    {
        let tensor_type = (0..64)
            .filter_map(TensorType::from_number)
            .find(|tensor_type| tensor_type.name() == name)
            .unwrap();
        let blocks = expected.tensor(&format!("{name}.blocks")).unwrap();
        let values = expected.tensor(&format!("{name}.values")).unwrap();
        assert_eq!(values.dtype, Dtype::F32);
        let values = values.to_f32().unwrap();
        assert_eq!(
            tensor_type.bytes_of(values.len()),
            Some(blocks.bytes.len()),
            "{name}"
        );
        let mut out = vec![f32::NAN; values.len()];
        assert!(dequantize::dequantize(tensor_type, blocks.bytes, &mut out));
        for (index, (ours, theirs)) in out.iter().zip(&values).enumerate() {
            assert_eq!(
                ours.to_bits(),
                theirs.to_bits(),
                "{name}, element {index}: {ours} is not {theirs}"
            );
        }
        seen.push(name);
    }
    let quantised = [
        "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0",
    ];
    assert_eq!(seen, quantised);
}

#[test]
fn floats_of_half_width_are_widened_and_are_the_only_other_types() {
    let names = dequantize::supported();
    let others = names
        .split([',', ' '])
        .filter(|name| !name.is_empty() && !name.starts_with('Q') && *name != "or");
    assert_eq!(others.collect::<Vec<_>>(), ["F32", "F16", "BF16"]);
    let of = |name: &str| {
        (0..64)
            .filter_map(TensorType::from_number)
            .find(|tensor_type| tensor_type.name() == name)
            .unwrap()
    };
    for (name, bytes) in [("F16", [0x00, 0xbe]), ("BF16", [0xc0, 0xbf])] {
        let mut out = [0.0];
        assert!(dequantize::dequantize(of(name), &bytes, &mut out));
        assert_eq!(out[0].to_bits(), (-1.5_f32).to_bits(), "{name}");
    }
    assert!(!dequantize::dequantize(
        of("Q8_1"),
        &[0; 36],
        &mut [0.0; 32]
    ));
}

fn read_everything(bytes: &[u8]) {
    let Ok(header) = parse(bytes) else { return };
    for info in header.tensors.values() {
        let mut out = vec![0.0; info.elements().min(1 << 16)];
        dequantize::dequantize(info.tensor_type, &bytes[info.bytes.clone()], &mut out);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..512)) {
        read_everything(&tail);
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tail);
        read_everything(&bytes);
    }

    #[test]
    fn damaged_files_never_panic(changes in proptest::collection::vec((0usize..330, any::<u8>()), 1..4), keep in 0usize..330) {
        let mut bytes = Draft::small().bytes();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        read_everything(&bytes);
        read_everything(&bytes[..keep.min(bytes.len())]);
    }
}
