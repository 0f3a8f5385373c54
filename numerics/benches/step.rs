//! Tokens a second of training steps on a model of SmolLM2-135M's shape with random weights, next to what libtorch's own
//! matrix products over the same shapes allow in the same run, and where the rest of a step goes.
//!
//! `make bench`, or with words that a line must have: `make bench ARGS="QLoRA BFloat16 8x60"`. With `PEER=<python>`, one that has
//! transformers, peft and bitsandbytes, the reference stack computes each line of equal rows in turn (`peer.py`). Numbers of a busy
//! machine mean nothing: compare the ratios.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and ends at the first fault"
)]

use std::time::{Duration, Instant};

use finetune_numerics::adapter::{Lora, LoraSettings};
use finetune_numerics::architecture::{Biases, ModelConfig, Wiring};
use finetune_numerics::model::{Base, Batch, LoadOptions, Row, Storage, WeightSource};
use finetune_numerics::ops::four_bit::Code;
use finetune_numerics::ops::profile::{Operation, profiled};
use finetune_numerics::ops::rope::{Rope, Scaling};
use finetune_numerics::optimizer::{Optimizer, OptimizerKind};
use tch::{Device, Kind, Tensor};

/// Steps measured after one to warm up; the fastest counts, because other processes only ever slow a step down.
const STEPS: usize = 5;

const METHODS: [(&str, Storage); 2] = [
    ("LoRA", Storage::Frozen),
    (
        "QLoRA",
        Storage::FourBit {
            code: Code::Nf4,
            double_quantization: true,
        },
    ),
];

/// The rows of a step: what they are called, and the tokens of each.
fn batches() -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("2x256", vec![256; 2]),
        ("8x60", vec![60; 8]),
        // 210 tokens on average.
        ("16xmixed", (0..16).map(|row| 20 + row * 380 / 15).collect()),
        ("16x210", vec![210; 16]),
        ("8x512", vec![512; 8]),
        ("1x4096", vec![4096]),
    ]
}

fn main() {
    let config = shape();
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    println!("{}", machine());
    let operations = Operation::ALL
        .map(|operation| format!("{:>9}", format!("{operation:?}").to_lowercase()))
        .join(" ");
    println!(
        "{:<6} {:<9} {:>9} {:>7} {:>9} {:>11} {:>9}  milliseconds a step: {operations} {:>9}",
        "method", "compute", "batch", "threads", "tokens/s", "products/s", "of bound", "rest"
    );
    let most = tch::get_num_threads();
    for kind in [Kind::BFloat16, Kind::Float] {
        for (batch, lengths) in batches() {
            for (name, storage) in METHODS {
                let words = [name.to_owned(), format!("{kind:?}"), batch.to_owned()];
                if !wanted.iter().all(|word| words.contains(word)) {
                    continue;
                }
                // How a second thread pays is seen on one batch.
                let threads = if batch == "2x256" {
                    vec![1, most]
                } else {
                    vec![most]
                };
                let mut speeds = Vec::new();
                for threads in threads {
                    tch::set_num_threads(threads);
                    let speed = line(&config, (kind, storage), &lengths, &words);
                    if threads == most {
                        peer(&words, threads, speed.ours);
                    }
                    speeds.push(speed);
                }
                if let [one, all] = &speeds[..] {
                    println!(
                        "  {most} threads / 1: {:.2}, of the products {:.2}",
                        all.ours / one.ours,
                        all.bound / one.bound
                    );
                }
            }
        }
    }
    println!(
        "greatest resident memory: {} MiB",
        greatest_resident() >> 20
    );
}

/// Prints what the reference stack makes of the same, if the environment names a Python that has it and it takes such rows.
fn peer(words: &[String; 3], threads: i32, ours: f64) {
    let Some(python) = std::env::var_os("PEER").filter(|python| !python.is_empty()) else {
        return;
    };
    let [name, kind, batch] = words;
    let is_equal_rows =
        |(rows, tokens): (&str, &str)| rows.parse::<u32>().is_ok() && tokens.parse::<u32>().is_ok();
    if !batch.split_once('x').is_some_and(is_equal_rows) {
        return;
    }
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peer.py");
    let mut command = std::process::Command::new(python);
    // It brings a libtorch of its own.
    command.env_remove("LD_LIBRARY_PATH").arg(script);
    command.args([name, kind, batch, &threads.to_string()]);
    let output = command.output().expect("PEER names no program");
    if !output.status.success() {
        println!(
            "  reference: {}",
            String::from_utf8_lossy(&output.stderr)
                .lines()
                .last()
                .unwrap_or_default()
        );
        return;
    }
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |key: &str| said[key].as_f64().unwrap();
    let theirs = number("tokens_per_second");
    println!(
        "  reference: {theirs:.0} tokens/s, greatest resident memory {:.0} MiB; ours / reference {:.2}",
        number("peak_kibibytes") / 1024.0,
        ours / theirs
    );
}

/// Tokens a second: of a step, and as the products allow.
struct Speed {
    ours: f64,
    bound: f64,
}

/// What the figures are of.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = info.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once(": "));
        value.map_or("", |(_, value)| value).to_owned()
    };
    let flags = value("flags");
    let known = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"];
    let has = |flag: &&str| flags.split(' ').any(|own| own == *flag);
    let known: Vec<&str> = known.into_iter().filter(has).collect();
    let bound = std::env::var("ONEDNN_MAX_CPU_ISA");
    let bound = bound.map_or_else(
        |_| String::new(),
        |isa| {
            format!("; ONEDNN_MAX_CPU_ISA={isa}: computed as by a processor with no more than that")
        },
    );
    format!(
        "{}, {} threads, {}{bound}",
        value("model name"),
        tch::get_num_threads(),
        known.join(" ")
    )
}

/// Measures and prints one line.
fn line(
    config: &ModelConfig,
    (kind, storage): (Kind, Storage),
    lengths: &[usize],
    words: &[String; 3],
) -> Speed {
    let tokens = lengths.iter().sum::<usize>();
    let bound = tokens as f64 / products(config, kind, tokens).as_secs_f64();
    let (took, operations) = step(config, kind, storage, lengths);
    let speed = tokens as f64 / took.as_secs_f64();
    let milliseconds = |time: Duration| format!(" {:>9.1}", time.as_secs_f64() * 1e3);
    let known: Duration = operations.iter().map(|(_, spent)| *spent).sum();
    let operations: String = operations
        .iter()
        .map(|(_, spent)| milliseconds(*spent))
        .chain([milliseconds(took.saturating_sub(known))])
        .collect();
    let [name, kind, batch] = words;
    println!(
        "{name:<6} {kind:<9} {batch:>9} {:>7} {speed:>9.0} {bound:>11.0} {:>9.2}  {:>20}{operations}",
        tch::get_num_threads(),
        speed / bound,
        format!("{:.1}", took.as_secs_f64() * 1e3),
    );
    Speed { ours: speed, bound }
}

/// `VmHWM` of this process, in bytes.
fn greatest_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    kibibytes.unwrap().parse::<u64>().unwrap() << 10
}

fn shape() -> ModelConfig {
    ModelConfig {
        architecture: "LlamaForCausalLM".to_owned(),
        vocabulary_size: 49152,
        hidden_size: 576,
        intermediate_size: 1536,
        layers: 30,
        heads: 9,
        key_value_heads: 3,
        head_dim: 64,
        rms_norm_epsilon: 1e-5,
        rope: Rope {
            theta: 100_000.0,
            dimensions: 64,
            scaling: Scaling::None,
        },
        windows: None,
        max_position_embeddings: 8192,
        attention_dropout: 0.0,
        tied_embeddings: true,
        biases: Biases::default(),
        wiring: Wiring::LLAMA,
    }
}

struct RandomWeights<'a>(&'a ModelConfig);

impl WeightSource for RandomWeights<'_> {
    fn names(&self) -> Vec<String> {
        self.0.tensors().into_iter().map(|(name, _)| name).collect()
    }

    fn tensor(&self, name: &str) -> finetune_numerics::ops::Result<Tensor> {
        let (_, shape) = self
            .0
            .tensors()
            .into_iter()
            .find(|(known, _)| known == name)
            .unwrap();
        Ok(Tensor::f_randn(&shape[..], (Kind::Float, Device::Cpu))?.f_mul_scalar(0.04)?)
    }
}

/// The fastest of some whole steps, and what its operations took: forward, backward, clipping, AdamW; rank 16 on all linear
/// layers; all rows end to end, as the trainer lays them.
fn step(
    config: &ModelConfig,
    compute: Kind,
    storage: Storage,
    lengths: &[usize],
) -> (Duration, Vec<(Operation, Duration)>) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the bench is one thread, and its weights come from libtorch"
    )]
    tch::manual_seed(0);
    let base = Base::load(
        config,
        &RandomWeights(config),
        &LoadOptions { compute, storage },
    )
    .unwrap();
    let mut lora = Lora::new(config, &LoraSettings::default(), 0).unwrap();
    let mut optimizer = Optimizer::new(OptimizerKind::AdamW, lora.parameters(), 0.0);
    let tokens: Vec<Vec<u32>> = lengths
        .iter()
        .enumerate()
        .map(|(row, length)| {
            (0..*length)
                .map(|at| ((row * 7919 + at * 104_729) % 49152) as u32)
                .collect()
        })
        .collect();
    let loss = vec![true; lengths.iter().copied().max().unwrap()];
    let rows: Vec<_> = tokens
        .iter()
        .map(|tokens| Row {
            tokens,
            loss: &loss[..tokens.len()],
        })
        .collect();
    let batch = Batch::packed(&[rows]).unwrap();
    let mut once = || {
        let start = Instant::now();
        let ((), operations) = profiled(|| {
            base.loss_and_gradient(Some(&lora), &batch, 1e-3, None)
                .unwrap();
            optimizer.step(lora.parameters_mut(), 1e-3, 1.0).unwrap();
        });
        (start.elapsed(), operations)
    };
    once();
    (0..STEPS)
        .map(|_| once())
        .min_by_key(|(took, _)| *took)
        .unwrap()
}

/// The fastest of some rounds of the products that cannot be avoided: for each linear layer and the head, y = x·Wᵀ and
/// dx = dy·W.
fn products(config: &ModelConfig, kind: Kind, tokens: usize) -> Duration {
    let random = |rows: i64, columns: i64| {
        Tensor::randn([rows, columns], (Kind::Float, Device::Cpu)).to_kind(kind)
    };
    let tokens = tokens as i64;
    let pair = |(output, input): (i64, i64)| {
        (
            random(tokens, input),
            random(output, input),
            random(tokens, output),
        )
    };
    let mut layers: Vec<_> = (0..config.layers)
        .flat_map(|_| config.projections())
        .map(|projection| pair(projection.shape(config)))
        .collect();
    layers.push(pair((config.vocabulary_size, config.hidden_size)));
    let once = || {
        let start = Instant::now();
        for (x, weight, _) in &layers {
            let _ = x.f_mm(&weight.tr()).unwrap();
        }
        for (_, weight, dy) in layers.iter().rev() {
            let _ = dy.f_mm(weight).unwrap();
        }
        start.elapsed()
    };
    once();
    (0..STEPS).map(|_| once()).min().unwrap()
}
