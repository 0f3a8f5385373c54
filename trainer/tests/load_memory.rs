//! The memory of a load in 4 bits: the model as it is held, one tensor on its way, and little else. The only test of its
//! process, because it is the process that is measured.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use half::bf16;
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};
use trainer::base::BaseModelFiles;
use trainer::method::four_bit::Code;
use trainer::model::{Base, LoadOptions, Storage};

const MIB: u64 = 1 << 20;
/// What a load may take beyond the model and one tensor.
const ALLOWANCE: u64 = 200 * 1_000_000;

/// Four layers of a model of 1.4 billion weights: 378 MB in bf16.
fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632,
        "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 16, "num_hidden_layers": 4,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "vocab_size": 4096,
    })
}

/// Writes a base in bf16 without ever holding it.
fn write_base(folder: &Path) {
    std::fs::write(folder.join("config.json"), config().to_string()).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixtures.join(name), folder.join(name)).unwrap();
    }
    let tensors = BaseModelFiles::open(folder).unwrap().config().tensors();
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in &tensors {
        let start = end;
        end += 2 * shape.iter().product::<i64>() as u64;
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(folder.join("model.safetensors")).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let values: Vec<u8> = (0..MIB / 2)
        .map(|index| (index * 2_654_435_761 % 1999) as f32 / 1999.0 - 0.5)
        .flat_map(|value| bf16::from_f32(value).to_le_bytes())
        .collect();
    while end > 0 {
        let part = values.len().min(end as usize);
        file.write_all(&values[..part]).unwrap();
        end -= part as u64;
    }
    file.flush().unwrap();
}

/// The memory of this process that no file stands behind, in bytes.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    kibibytes * 1024
}

/// What `work` gives, and the most memory that was seen while it ran.
fn watched<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let result = work();
        let last = anonymous();
        done.store(true, Ordering::Relaxed);
        peak.fetch_max(last, Ordering::Relaxed);
        (result, peak.load(Ordering::Relaxed))
    })
}

#[test]
fn a_load_in_4_bits_takes_the_model_one_tensor_and_little_else() {
    let folder = tempfile::tempdir().unwrap();
    write_base(folder.path());
    // libtorch's own start: its threads and buffers.
    let small = Tensor::rand([256, 256], (Kind::BFloat16, Device::Cpu));
    let _ = small.mm(&small);
    let start = anonymous();

    let files = BaseModelFiles::open(folder.path()).unwrap();
    let (base, peak) = watched(|| {
        Base::load(
            files.config(),
            files.weights().unwrap().as_ref(),
            &LoadOptions {
                compute: Kind::BFloat16,
                storage: Storage::FourBit {
                    code: Code::Nf4,
                    double_quantization: true,
                },
            },
        )
        .unwrap()
    });
    let sizes = |matrices: bool| {
        files
            .config()
            .tensors()
            .into_iter()
            .filter(move |(name, _)| name.ends_with("_proj.weight") == matrices)
            .map(|(_, shape)| shape.iter().product::<i64>() as u64)
    };
    let quantised: u64 = sizes(true).sum();
    // 4 bits a weight, a scale of 8 bits for 64, a scale of scales for 256 of those; the embedding in bf16.
    let model =
        quantised / 2 + quantised / 64 + quantised / 64 / 64 + 2 * sizes(false).sum::<u64>();
    let tensor = 2 * sizes(true).chain(sizes(false)).max().unwrap();
    let dense = 2 * sizes(true).chain(sizes(false)).sum::<u64>();
    assert!(
        model + tensor + ALLOWANCE < dense + model,
        "the base is too small to show anything"
    );
    let taken = peak - start;
    assert!(
        taken <= model + tensor + ALLOWANCE,
        "the load took {} MiB, expected at most {}: {} for the model, {} for a tensor",
        taken / MIB,
        (model + tensor + ALLOWANCE) / MIB,
        model / MIB,
        tensor / MIB
    );
    assert_eq!(base.config().layers, 4);
}
