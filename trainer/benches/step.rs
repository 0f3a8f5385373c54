//! Tokens a second of training steps on a model of SmolLM2-135M's shape with random weights, next to what libtorch's own
//! matrix products over the same shapes allow in the same run.
//!
//! `cargo bench -p trainer --bench step`, or with words that a line must have: `… -- QLoRA BFloat16 8x60`. Numbers of a busy machine mean nothing: compare the last column.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and ends at the first fault"
)]

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};
use trainer::method::Lora;
use trainer::method::four_bit::Code;
use trainer::model::{
    Base, Batch, Biases, LoadOptions, ModelConfig, Row, Storage, WeightSource, Wiring,
};
use trainer::ops::rope::{Rope, Scaling};
use trainer::optimizer::{AdamW, clip_gradient_norm};

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

fn main() {
    let config = shape();
    println!(
        "{:<6} {:<9} {:>8} {:>10} {:>12} {:>9}",
        "method", "compute", "batch", "tokens/s", "products/s", "of bound"
    );
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    for kind in [Kind::BFloat16, Kind::Float] {
        for (rows, length) in [(2, 256), (8, 60)] {
            for (name, storage) in METHODS {
                let words = [
                    name.to_owned(),
                    format!("{kind:?}"),
                    format!("{rows}x{length}"),
                ];
                if !wanted.iter().all(|word| words.contains(word)) {
                    continue;
                }
                let tokens = (rows * length) as f64;
                let bound = tokens / products(&config, kind, rows * length).as_secs_f64();
                let speed = tokens / step(&config, kind, storage, rows, length).as_secs_f64();
                let [name, kind, batch] = words;
                println!(
                    "{name:<6} {kind:<9} {batch:>8} {speed:>10.0} {bound:>12.0} {:>9.2}",
                    speed / bound
                );
            }
        }
    }
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

    fn tensor(&self, name: &str) -> trainer::ops::Result<Tensor> {
        let (_, shape) = self
            .0
            .tensors()
            .into_iter()
            .find(|(known, _)| known == name)
            .unwrap();
        Ok(Tensor::f_randn(&shape[..], (Kind::Float, Device::Cpu))?.f_mul_scalar(0.04)?)
    }
}

/// The fastest of some whole steps: forward, backward, clipping, AdamW; rank 16 on all linear layers.
fn step(
    config: &ModelConfig,
    compute: Kind,
    storage: Storage,
    rows: usize,
    length: usize,
) -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "the bench is one thread, and its weights come from libtorch"
    )]
    tch::manual_seed(0);
    let mut base = Base::load(
        config,
        &RandomWeights(config),
        &LoadOptions { compute, storage },
    )
    .unwrap();
    let mut lora = Lora::new(config, &finetune_crds::fine_tune_job::Lora::default(), 0).unwrap();
    let mut optimizer = AdamW::new(lora.parameters().count(), 0.0);
    let tokens: Vec<Vec<u32>> = (0..rows)
        .map(|row| {
            (0..length)
                .map(|at| ((row * 7919 + at * 104_729) % 49152) as u32)
                .collect()
        })
        .collect();
    let loss = vec![true; length];
    let rows: Vec<_> = tokens
        .iter()
        .map(|tokens| Row {
            tokens,
            loss: &loss,
        })
        .collect();
    let batch = Batch::new(&rows).unwrap();
    let mut once = || {
        let start = Instant::now();
        lora.parameters_mut().zero_gradients().unwrap();
        base.loss_and_gradient(Some(&mut lora), &batch, 1e-3)
            .unwrap();
        clip_gradient_norm(lora.parameters_mut(), 1.0).unwrap();
        optimizer.step(lora.parameters_mut(), 1e-3).unwrap();
        start.elapsed()
    };
    once();
    (0..STEPS).map(|_| once()).min().unwrap()
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
