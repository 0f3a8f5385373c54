//! A whole model as a folder that transformers loads: the base's configuration and tokenizer, and weights in the types in
//! which the base stores them. Of a multimodal base the rest is there too, as it was.
//!
//! Weights are made one at a time, when their turn to be written comes. The base's files are read, never the base as training
//! holds it: a base in 4 bits would give a model in 4 bits' precision.

use std::collections::BTreeMap;
use std::path::Path;

use finetune_artifacts::safetensors_file::{self, Dtype, TensorPlan, TensorView};
use finetune_numerics::adapter::Lora;
use finetune_numerics::model::WeightSource;
use finetune_numerics::optimizer::Parameters;
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use crate::base::{BaseModelFiles, StoredWeights};
use crate::failure::Failure;
use crate::local_file;

use super::merged::Merged;

/// The weights' file, where one is enough.
const WEIGHTS: &str = "model.safetensors";
/// Where each tensor lies, where it is not.
const INDEX: &str = "model.safetensors.index.json";
/// The configuration.
const CONFIG: &str = "config.json";
/// The generation settings.
const GENERATION: &str = "generation_config.json";
/// The most bytes of one file, as transformers splits models.
const SHARD_BYTES: usize = 5_000_000_000;

/// Writes the model of these `files` with trained weights into `folder`.
pub(super) fn write_trained(
    folder: &Path,
    files: &BaseModelFiles,
    parameters: &Parameters,
) -> Result<(), Failure> {
    let stored = files.weights()?;
    let names = parameters.list().iter().map(|p| p.name.clone()).collect();
    write_companions(folder, files)?;
    write(folder, stored.as_ref(), names, &|name| {
        let parameter = parameters
            .find(name)
            .ok_or_else(|| Failure::internal(format!("no parameter is named {name}")))?;
        Ok(parameters.value(parameter)?)
    })
}

/// Writes the base with the adapter merged into it into `folder`.
pub(super) fn write_merged(
    folder: &Path,
    files: &BaseModelFiles,
    lora: &Lora,
) -> Result<(), Failure> {
    let stored = files.weights()?;
    let merged = Merged::new(stored.as_ref(), lora);
    write_companions(folder, files)?;
    write(folder, stored.as_ref(), stored.names(), &|name| {
        Ok(merged.tensor(name)?)
    })
}

/// Writes the model's weights of these `names`, as `make` makes them, and unchanged what lies beside the model in the
/// base's files. All have the names and types that they have there.
fn write(
    folder: &Path,
    stored: &dyn StoredWeights,
    names: Vec<String>,
    make: &dyn Fn(&str) -> Result<Tensor, Failure>,
) -> Result<(), Failure> {
    let mut plans = Vec::new();
    // By the name in the file.
    let mut made = BTreeMap::new();
    for name in names {
        let in_file = stored.stored_name(&name);
        plans.push(plan(&in_file, &stored.tensor(&name)?)?);
        made.insert(in_file, name);
    }
    let beside: BTreeMap<String, TensorView<'_>> = stored.beside().into_iter().collect();
    plans.extend(beside.iter().map(|(name, tensor)| TensorPlan {
        name: name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.to_vec(),
    }));
    write_weights(folder, plans, SHARD_BYTES, &|plan| match (
        made.get(&plan.name),
        beside.get(&plan.name),
    ) {
        (None, Some(tensor)) => Ok(tensor.bytes.to_vec()),
        (name, _) => bytes_of(&make(name.unwrap_or(&plan.name))?, plan.dtype),
    })
}

/// How a tensor is written that the base stores as `stored`. A type that weights cannot have becomes fp32.
fn plan(name: &str, stored: &Tensor) -> Result<TensorPlan, Failure> {
    Ok(TensorPlan {
        name: name.to_owned(),
        dtype: match stored.f_kind()? {
            Kind::BFloat16 => Dtype::BF16,
            Kind::Half => Dtype::F16,
            _ => Dtype::F32,
        },
        shape: stored.size().iter().map(|size| *size as usize).collect(),
    })
}

/// Configuration and tokenizer. What says that the weights are quantised is left out: these are not. The generation settings
/// name the end of a turn too, so that every engine ends answers there.
fn write_companions(folder: &Path, files: &BaseModelFiles) -> Result<(), Failure> {
    let mut companions: BTreeMap<String, Vec<u8>> = files.companions()?.into_iter().collect();
    if let Some(config) = companions.remove(CONFIG) {
        companions.insert(CONFIG.to_owned(), without_quantization(config));
    }
    let tokenizer = files.tokenizer();
    let ends = tokenizer.turn_end().map_or(&[][..], |end| &end.answer);
    if ends
        .iter()
        .any(|id| !tokenizer.named_stop_ids().contains(id))
    {
        let source = companions.get(GENERATION).or(companions.get(CONFIG));
        let generation = with_ends(source.map_or(&[], Vec::as_slice), ends);
        companions.insert(GENERATION.to_owned(), generation);
    }
    for (name, content) in companions {
        local_file::write(&folder.join(name), content)?;
    }
    Ok(())
}

/// Generation settings that end answers at these tokens too. `source` is the base's own, or its configuration, of which the
/// ids of tokens are taken, as transformers takes them where there are no generation settings.
fn with_ends(source: &[u8], ends: &[u32]) -> Vec<u8> {
    let mut keys: Map<String, Value> = serde_json::from_slice(source).unwrap_or_default();
    if keys.contains_key("architectures") {
        keys.retain(|key, _| {
            ["bos_token_id", "eos_token_id", "pad_token_id"].contains(&key.as_str())
        });
    }
    let mut all = match keys.remove("eos_token_id") {
        Some(Value::Array(list)) => list,
        Some(Value::Null) | None => Vec::new(),
        Some(one) => vec![one],
    };
    for end in ends {
        let end = Value::from(*end);
        if !all.contains(&end) {
            all.push(end);
        }
    }
    keys.insert("eos_token_id".to_owned(), Value::Array(all));
    serde_json::to_vec_pretty(&keys).unwrap_or_default()
}

fn without_quantization(config: Vec<u8>) -> Vec<u8> {
    let Ok(Value::Object(mut keys)) = serde_json::from_slice(&config) else {
        return config;
    };
    if keys.remove("quantization_config").is_none() {
        return config;
    }
    serde_json::to_vec_pretty(&keys).unwrap_or(config)
}

/// Writes tensors into one file, or into several of at most `shard_bytes` with an index.
fn write_weights(
    folder: &Path,
    mut plans: Vec<TensorPlan>,
    shard_bytes: usize,
    make: &dyn Fn(&TensorPlan) -> Result<Vec<u8>, Failure>,
) -> Result<(), Failure> {
    let write = |file: &str, plans: &[TensorPlan]| {
        safetensors_file::write_lazily(&folder.join(file), plans, Some(("format", "pt")), make)
    };
    plans.sort_by(|one, other| one.name.cmp(&other.name));
    let shards = shards(&plans, shard_bytes);
    if let [only] = shards.as_slice() {
        return write(WEIGHTS, only);
    }
    let mut weight_map = BTreeMap::new();
    for (index, plans) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write(&file, plans)?;
        weight_map.extend(plans.iter().map(|plan| (plan.name.as_str(), file.clone())));
    }
    let total: usize = plans.iter().map(TensorPlan::length).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let index = serde_json::to_vec_pretty(&index).map_err(Failure::internal)?;
    Ok(local_file::write(&folder.join(INDEX), index)?)
}

/// Neighbours of at most `bytes` together; a larger tensor stands alone.
fn shards(plans: &[TensorPlan], bytes: usize) -> Vec<&[TensorPlan]> {
    let mut shards = Vec::new();
    let (mut start, mut length) = (0, 0);
    for (index, plan) in plans.iter().enumerate() {
        if index > start && length + plan.length() > bytes {
            shards.push(&plans[start..index]);
            (start, length) = (index, 0);
        }
        length += plan.length();
    }
    shards.push(&plans[start..]);
    shards
}

fn bytes_of(tensor: &Tensor, dtype: Dtype) -> Result<Vec<u8>, Failure> {
    let (kind, width) = match dtype {
        Dtype::BF16 => (Kind::BFloat16, 2),
        Dtype::F16 => (Kind::Half, 2),
        _ => (Kind::Float, 4),
    };
    let tensor = tensor.f_to_kind(kind)?.f_contiguous()?;
    let mut bytes = vec![0; tensor.numel() * width];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_model_in_several_files_is_the_model_in_one() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama");
        let files = BaseModelFiles::open(&folder).unwrap();
        let stored = files.weights().unwrap();
        let written = tempfile::tempdir().unwrap();
        let plans: Vec<TensorPlan> = stored
            .names()
            .iter()
            .map(|name| plan(name, &stored.tensor(name).unwrap()).unwrap())
            .collect();
        write_companions(written.path(), &files).unwrap();
        let make = |plan: &TensorPlan| bytes_of(&stored.tensor(&plan.name)?, plan.dtype);
        write_weights(written.path(), plans, 50_000, &make).unwrap();
        assert!(!written.path().join(WEIGHTS).exists());
        assert!(written.path().join(INDEX).exists());

        let again = BaseModelFiles::open(written.path()).unwrap();
        let again = again.weights().unwrap();
        for name in stored.names() {
            assert_eq!(
                again.tensor(&name).unwrap(),
                stored.tensor(&name).unwrap(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_base_that_does_not_name_the_end_of_its_turns_becomes_a_model_that_does() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama");
        let base = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), base.path().join(entry.file_name())).unwrap();
        }
        let config = base.path().join("tokenizer_config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        let text = text.replace(
            "\"eos_token\": \"<|im_end|>\"",
            "\"eos_token\": \"<|endoftext|>\"",
        );
        std::fs::write(config, text).unwrap();
        let _ = std::fs::remove_file(base.path().join(GENERATION));
        let files = BaseModelFiles::open(base.path()).unwrap();
        assert_eq!(files.tokenizer().named_stop_ids(), [0]);

        let written = tempfile::tempdir().unwrap();
        write_companions(written.path(), &files).unwrap();
        let generation = std::fs::read(written.path().join(GENERATION)).unwrap();
        let generation: Value = serde_json::from_slice(&generation).unwrap();
        let ends = generation["eos_token_id"].as_array().unwrap();
        assert!(ends.contains(&json!(2)), "{generation}");
        assert!(generation.get("hidden_size").is_none(), "{generation}");
    }

    #[test]
    fn the_ends_that_a_base_names_are_kept_beside_the_end_of_a_turn() {
        let kept = with_ends(br#"{"eos_token_id": 7, "temperature": 0.6}"#, &[7, 9]);
        let kept: Value = serde_json::from_slice(&kept).unwrap();
        assert_eq!(kept, json!({ "eos_token_id": [7, 9], "temperature": 0.6 }));
    }

    #[test]
    fn a_quantised_bases_configuration_no_longer_says_so() {
        let config = br#"{"a": 1, "quantization_config": {"bits": 4}}"#.to_vec();
        let kept: Value = serde_json::from_slice(&without_quantization(config)).unwrap();
        assert_eq!(kept, json!({ "a": 1 }));
        let plain = br#"{ "a": 1 }"#.to_vec();
        assert_eq!(without_quantization(plain.clone()), plain);
    }
}
