//! What the tests of memory share: a base of some size, and the memory of this process.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use finetune_numerics::architecture::ModelConfig;
use finetune_numerics::model::{Base, LoadOptions, Storage};
use finetune_numerics::ops::four_bit::Code;
use half::bf16;
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};
use trainer::base::BaseModelFiles;

pub(crate) const MIB: u64 = 1 << 20;
/// What may be taken beyond what is accounted for.
pub(crate) const ALLOWANCE: u64 = 200 * 1_000_000;

/// Layers of a model of 1.4 billion weights, each 90 MB in bf16.
fn config(layers: i64) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632,
        "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 16, "num_hidden_layers": layers,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "vocab_size": 4096,
    })
}

/// Writes a base in bf16 without ever holding it.
pub(crate) fn write_base(folder: &Path, layers: i64) {
    std::fs::write(folder.join("config.json"), config(layers).to_string()).unwrap();
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
pub(crate) fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
    kibibytes * 1024
}

/// What `work` gives, and the most memory that was seen while it ran.
pub(crate) fn watched<T>(work: impl FnOnce() -> T) -> (T, u64) {
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

/// The bytes of a base held in NF4 with double quantisation: 4 bits a weight, a scale of 8 bits for 64, a scale of scales for
/// 256 of those; the embedding in bf16.
pub(crate) fn in_four_bits(config: &ModelConfig) -> u64 {
    let quantised: u64 = sizes(config, true).iter().sum();
    let rest: u64 = sizes(config, false).iter().sum();
    quantised / 2 + quantised / 64 + quantised / 64 / 64 + 2 * rest
}

/// The numbers of weights of the tensors that are quantised, or of the others.
pub(crate) fn sizes(config: &ModelConfig, quantised: bool) -> Vec<u64> {
    let tensors = config.tensors().into_iter();
    let of_kind = tensors.filter(|(name, _)| name.ends_with("_proj.weight") == quantised);
    of_kind
        .map(|(_, shape)| shape.iter().product::<i64>() as u64)
        .collect()
}

/// As a job of method qlora holds it.
pub(crate) fn load_in_four_bits(files: &BaseModelFiles) -> Base {
    let options = LoadOptions {
        compute: Kind::BFloat16,
        storage: Storage::FourBit {
            code: Code::Nf4,
            double_quantization: true,
        },
    };
    Base::load(files.config(), files.weights().unwrap().as_ref(), &options).unwrap()
}

/// libtorch's own start: its threads and buffers.
pub(crate) fn start_libtorch() {
    let small = Tensor::rand([256, 256], (Kind::BFloat16, Device::Cpu));
    let _ = small.mm(&small);
}
