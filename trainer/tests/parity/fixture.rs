//! Reading the fixtures, and models made of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use finetune_numerics::adapter::Lora;
use finetune_numerics::architecture::{Biases, ModelConfig, Wiring};
use finetune_numerics::model::{Base, Batch, LoadOptions, Storage};
use finetune_numerics::ops::rope::{Rope, Scaling};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tch::{Kind, Tensor};

pub(crate) type Tensors = BTreeMap<String, Tensor>;

pub(crate) fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(relative)
}

pub(crate) fn json(relative: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(relative)).unwrap()).unwrap()
}

pub(crate) fn tensors(relative: &str) -> Tensors {
    let bytes = std::fs::read(path(relative)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::I64 => Kind::Int64,
            Dtype::U8 => Kind::Uint8,
            other => panic!("{name} is {other:?}"),
        };
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        (name, Tensor::from_data_size(view.data(), &shape, kind))
    };
    file.tensors().into_iter().map(tensor).collect()
}

pub(crate) fn config(model: &str) -> ModelConfig {
    let json = json(&format!("{model}/config.json"));
    let number = |key: &str| json[key].as_i64().unwrap();
    let theta = json["rope_theta"]
        .as_f64()
        .or_else(|| json["rope_parameters"]["rope_theta"].as_f64());
    let head_dim = json["head_dim"]
        .as_i64()
        .unwrap_or(number("hidden_size") / number("num_attention_heads"));
    ModelConfig {
        architecture: json["architectures"][0].as_str().unwrap().to_owned(),
        vocabulary_size: number("vocab_size"),
        hidden_size: number("hidden_size"),
        intermediate_size: number("intermediate_size"),
        layers: number("num_hidden_layers"),
        heads: number("num_attention_heads"),
        key_value_heads: number("num_key_value_heads"),
        head_dim,
        rms_norm_epsilon: json["rms_norm_eps"].as_f64().unwrap(),
        rope: Rope {
            theta: theta.unwrap(),
            dimensions: head_dim,
            scaling: Scaling::None,
        },
        windows: None,
        max_position_embeddings: number("max_position_embeddings"),
        attention_dropout: 0.0,
        tied_embeddings: json["tie_word_embeddings"].as_bool().unwrap(),
        biases: Biases {
            attention: json["attention_bias"].as_bool().unwrap(),
            output: json["attention_bias"].as_bool().unwrap(),
            feed_forward: json["mlp_bias"].as_bool().unwrap(),
        },
        wiring: Wiring::LLAMA,
    }
}

pub(crate) fn weights(model: &str) -> Tensors {
    tensors(&format!("{model}/model.safetensors"))
}

pub(crate) fn base(model: &str, compute: Kind, storage: Storage) -> Base {
    Base::load(
        &config(model),
        &weights(model),
        &LoadOptions { compute, storage },
    )
    .unwrap()
}

pub(crate) fn adapter_tensors(name: &str) -> Tensors {
    tensors(&format!("adapters/{name}/adapter_model.safetensors"))
}

/// PEFT's `scaling` of the adapter.
pub(crate) fn scaling(name: &str) -> f64 {
    let json = json(&format!("adapters/{name}/adapter_config.json"));
    let (rank, alpha) = (
        json["r"].as_f64().unwrap(),
        json["lora_alpha"].as_f64().unwrap(),
    );
    if json["use_rslora"].as_bool().unwrap() {
        alpha / rank.sqrt()
    } else {
        alpha / rank
    }
}

pub(crate) fn adapter(name: &str, model: &str) -> Lora {
    let scaling = scaling(name);
    Lora::from_tensors(&config(model), &|_| scaling, &adapter_tensors(name)).unwrap()
}

/// Tokens and Hugging Face labels (B, T) as a batch: targets are the labels one position to the left.
pub(crate) fn batch(tokens: &Tensor, labels: &Tensor) -> Batch {
    let (rows, length) = labels.size2().unwrap();
    let last = Tensor::full([rows, 1], -100, (Kind::Int64, tch::Device::Cpu));
    of_targets(
        tokens,
        &Tensor::cat(&[labels.narrow(1, 1, length - 1), last], 1),
    )
}

/// Tokens and targets (B, T) as a batch.
pub(crate) fn of_targets(tokens: &Tensor, targets: &Tensor) -> Batch {
    let flat = |x: &Tensor| Vec::<i64>::try_from(x.reshape([-1])).unwrap();
    Batch::of_targets(&flat(tokens), &flat(targets), tokens.size()[0]).unwrap()
}

/// The tokens of a batch that carry loss.
pub(crate) fn trained(batch: &Batch) -> f64 {
    batch.targets.count() as f64
}

pub(crate) fn scalar(tensors: &Tensors, name: &str) -> f64 {
    tensors[name].double_value(&[0])
}

/// The largest difference, relative to the largest expected value.
pub(crate) fn distance(ours: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(ours.size(), expected.size());
    let (ours, expected) = (ours.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let difference = (ours - &expected).abs().max().double_value(&[]);
    difference / expected.abs().max().double_value(&[])
}

#[track_caller]
pub(crate) fn assert_close(name: &str, ours: &Tensor, expected: &Tensor, tolerance: f64) {
    let distance = distance(ours, expected);
    assert!(
        distance <= tolerance,
        "{name}: relative difference {distance:.2e}, expected at most {tolerance:.1e}"
    );
}

#[track_caller]
pub(crate) fn assert_near(name: &str, ours: f64, expected: f64, tolerance: f64) {
    let distance = (ours / expected - 1.0).abs();
    assert!(
        distance <= tolerance,
        "{name} is {ours}, expected {expected}: relative difference {distance:.2e}, expected at most {tolerance:.1e}"
    );
}

#[track_caller]
pub(crate) fn assert_equal(name: &str, ours: &[u8], expected: &Tensor) {
    assert_eq!(ours.len(), expected.numel(), "{name}");
    let expected = Vec::<u8>::try_from(expected).unwrap();
    let wrong = ours
        .iter()
        .zip(&expected)
        .filter(|(ours, expected)| ours != expected)
        .count();
    assert_eq!(wrong, 0, "{name}: {wrong} of {} differ", ours.len());
}
