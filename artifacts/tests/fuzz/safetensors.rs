//! The reader of safetensors files: what it accepts, the reference implementation reads in the same way.

use finetune_artifacts::finite;
use finetune_artifacts::safetensors_file::{Dtype, SafetensorsFile};
use safetensors::SafeTensors;

use crate::driver::{Scratch, fuzz};
use crate::{BUDGET, fixture};

fn file_of(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0x3c);
    bytes
}

fn seeds() -> Vec<Vec<u8>> {
    let two = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[3,1],"data_offsets":[8,11]}}"#;
    let halves = r#"{"x.weight":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},"y":{"dtype":"F16","shape":[],"data_offsets":[8,10]},"z":{"dtype":"I64","shape":[0],"data_offsets":[10,10]}}   "#;
    vec![
        file_of(two, 11),
        file_of(halves, 10),
        std::fs::read(fixture("adapters/tiny-llama/adapter_model.safetensors")).unwrap(),
    ]
}

#[test]
fn a_changed_safetensors_file_is_refused_or_read_as_the_reference_reads_it() {
    let scratch = Scratch::new();
    fuzz("safetensors", BUDGET, &seeds(), |bytes| {
        let Ok(file) = SafetensorsFile::open(&scratch.write(bytes)) else {
            return;
        };
        let reference = SafeTensors::deserialize(bytes).unwrap();
        assert_eq!(reference.len(), file.names().count());
        for name in file.names() {
            let (ours, theirs) = (file.tensor(name).unwrap(), reference.tensor(name).unwrap());
            assert_eq!(ours.dtype, theirs.dtype());
            assert_eq!(ours.shape, theirs.shape());
            assert_eq!(ours.bytes, theirs.data());
            let fault = match ours.dtype {
                Dtype::F32 => finite::first_fault_f32(ours.bytes),
                Dtype::F16 => finite::first_fault_f16(ours.bytes),
                Dtype::BF16 => finite::first_fault_bf16(ours.bytes),
                _ => None,
            };
            if let Some(index) = fault {
                finite::fault(ours.shape, index);
            }
        }
    });
}
