//! Base models from Hugging Face directories and GGUF files.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use finetune_artifacts::safetensors_file::{Dtype, SafetensorsFile, TensorView};
use finetune_numerics::architecture::ModelConfig;
use finetune_numerics::model::{Base, LoadOptions, Storage};
use tch::{Kind, Tensor};
use trainer::base::BaseModelFiles;

use crate::tolerance::Rounding;
use crate::{fixtures, smollm2};

fn open(name: &str) -> Result<BaseModelFiles> {
    Ok(BaseModelFiles::open(&fixtures().join(name))?)
}

fn expected(name: &str) -> Result<SafetensorsFile> {
    Ok(SafetensorsFile::open(
        &fixtures().join("expected").join(name),
    )?)
}

fn as_tensor(view: &TensorView<'_>) -> Result<Tensor> {
    let kind = match view.dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        other => anyhow::bail!("type {other:?}"),
    };
    let shape: Vec<i64> = view.shape.iter().map(|size| *size as i64).collect();
    Ok(Tensor::f_from_data_size(view.bytes, &shape, kind)?)
}

/// The greatest distance of the logits from the reference's, as a share of the greatest value.
fn logit_distance(files: &BaseModelFiles, expected: &SafetensorsFile) -> Result<f64> {
    let options = LoadOptions {
        compute: Kind::Float,
        storage: Storage::Frozen,
    };
    let base = Base::load(files.config(), files.weights()?.as_ref(), &options)?;
    let wanted = as_tensor(&expected.tensor("logits")?)?;
    let mut found = base.logits(None, &as_tensor(&expected.tensor("tokens")?)?)?;
    if wanted.dim() == 2 {
        // Of long rows the fixture keeps those after the last token.
        found = found.select(1, -1);
    }
    let greatest = |tensor: Tensor| tensor.abs().max().double_value(&[]);
    Ok(greatest(found - &wanted) / greatest(wanted))
}

#[test]
fn configurations_of_both_transformers_generations_are_read() -> Result<()> {
    let old = open("tiny-llama")?;
    let config = old.config();
    ensure!(
        (
            config.hidden_size,
            config.layers,
            config.heads,
            config.key_value_heads,
            config.head_dim
        ) == (32, 3, 4, 2, 8)
    );
    ensure!(config.tied_embeddings && !config.biases.attention);
    let new = open("tiny-llama-bias")?;
    let config = new.config();
    ensure!((config.rope.theta - 500.0).abs() < 1e-9 && config.head_dim == 16);
    ensure!(config.biases.attention && config.biases.feed_forward && !config.tied_embeddings);
    Ok(())
}

#[test]
fn shards_hold_the_same_weights_as_one_file() -> Result<()> {
    let whole = open("tiny-llama")?.weights()?;
    let folder = tempfile::tempdir()?;
    for entry in std::fs::read_dir(fixtures().join("tiny-llama-sharded"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
    }
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(
            fixtures().join("tiny-llama").join(name),
            folder.path().join(name),
        )?;
    }
    let sharded = BaseModelFiles::open(folder.path())?.weights()?;
    ensure!(whole.names() == sharded.names());
    for name in whole.names() {
        ensure!(whole.tensor(&name)? == sharded.tensor(&name)?, "{name}");
    }

    std::fs::remove_file(folder.path().join("model-00002-of-00002.safetensors"))?;
    let error = BaseModelFiles::open(folder.path())?
        .weights()
        .err()
        .context("no error")?;
    ensure!(
        error
            .to_string()
            .contains("model-00002-of-00002.safetensors"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_gguf_says_of_its_shape_what_the_directory_says() -> Result<()> {
    let directory = open("tiny-llama-64")?;
    let gguf = open("gguf/mixed.gguf")?;
    let expected = ModelConfig {
        rms_norm_epsilon: gguf.config().rms_norm_epsilon,
        ..directory.config().clone()
    };
    ensure!(*gguf.config() == expected, "{:?}", gguf.config());
    ensure!((gguf.config().rms_norm_epsilon - 1e-5).abs() < 1e-11);
    ensure!(open("gguf/q4_1.gguf")?.config().tied_embeddings);
    Ok(())
}

#[test]
fn weights_of_a_gguf_are_the_references_to_the_bit_with_rows_put_back() -> Result<()> {
    let weights = open("gguf/mixed.gguf")?.weights()?;
    let expected = expected("gguf-mixed.safetensors")?;
    let original = SafetensorsFile::open(&fixtures().join("tiny-llama-64/model.safetensors"))?;
    for name in weights.names() {
        let found = weights.tensor(&name)?;
        let wanted = match expected.tensor(&format!("weight.{name}")) {
            Ok(view) => as_tensor(&view)?,
            // The head shows only in the logits; what is stored in fp32 is the original.
            Err(_) if name == "lm_head.weight" => continue,
            Err(_) => as_tensor(&original.tensor(&name)?)?,
        };
        ensure!(found.kind() == wanted.kind(), "{name}: {:?}", found.kind());
        ensure!(found.size() == wanted.size(), "{name}: {:?}", found.size());
        ensure!(found == wanted, "{name}");
    }
    Ok(())
}

#[test]
fn logits_of_a_gguf_are_the_references() -> Result<()> {
    for name in ["mixed", "q4_1", "types"] {
        let distance = logit_distance(
            &open(&format!("gguf/{name}.gguf"))?,
            &expected(&format!("gguf-{name}.safetensors"))?,
        )?;
        let rounding = Rounding::of(&format!("expected/gguf-{name}.safetensors"));
        ensure!(distance <= rounding.single("logits"), "{name}: {distance}");
    }
    Ok(())
}

#[test]
fn the_rotation_of_llama_3_1_is_known_by_the_divisors_that_a_gguf_holds() -> Result<()> {
    let base = open("gguf/llama3.gguf")?;
    let distance = logit_distance(&base, &expected("gguf-llama3.safetensors")?)?;
    let rounding = Rounding::of("expected/gguf-llama3.safetensors");
    ensure!(distance <= rounding.single("logits"), "{distance}");
    let folder = tempfile::tempdir()?;
    for (name, bytes) in base.companions()? {
        std::fs::write(folder.path().join(name), bytes)?;
    }
    let again = BaseModelFiles::open(folder.path())?;
    ensure!(again.config() == base.config(), "{:?}", again.config());

    // The last divisor of fp32, 8, becomes 8.5: then no divisor between is that of the scaling.
    let mut bytes = std::fs::read(fixtures().join("gguf/llama3.gguf"))?;
    let divisors = [1f32, 1.0, 1.0, 1.0].map(f32::to_le_bytes).concat();
    let at = bytes.windows(16).position(|window| window == divisors);
    let at = at.context("no divisors")? + 28;
    ensure!(bytes[at..at + 4] == 8f32.to_le_bytes());
    bytes[at..at + 4].copy_from_slice(&8.5f32.to_le_bytes());
    let path = folder.path().join("other.gguf");
    std::fs::write(&path, bytes)?;
    let error = BaseModelFiles::open(&path).err().context("no error")?;
    let text = error.to_string();
    ensure!(
        text.contains("rope_freqs.weight") && text.contains("not those of Llama 3.1's scaling"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_digest_is_that_of_the_files_and_changes_with_any_of_them() -> Result<()> {
    let folder = copy("tiny-llama")?;
    let first = BaseModelFiles::open(folder.path())?.digest()?;
    ensure!(
        first == open("tiny-llama")?.digest()?,
        "the same files have another digest elsewhere"
    );
    std::fs::write(folder.path().join("README.md"), "not part of the model")?;
    ensure!(first == BaseModelFiles::open(folder.path())?.digest()?);
    let config = folder.path().join("tokenizer_config.json");
    let text = std::fs::read_to_string(&config)? + "\n";
    std::fs::write(&config, text)?;
    ensure!(first != BaseModelFiles::open(folder.path())?.digest()?);
    Ok(())
}

#[test]
fn a_missing_an_alien_and_a_misshapen_tensor_are_named() -> Result<()> {
    let folder = copy("tiny-llama")?;
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config)?;
    for (from, to, expected) in [
        (
            "\"num_hidden_layers\": 3",
            "\"num_hidden_layers\": 4",
            "tensor `model.layers.3.",
        ),
        (
            "\"num_hidden_layers\": 3",
            "\"num_hidden_layers\": 2",
            "has no place in this architecture",
        ),
        (
            "\"intermediate_size\": 48",
            "\"intermediate_size\": 64",
            "it has shape [32, 48], expected [32, 64]",
        ),
        (
            "\"tie_word_embeddings\": true",
            "\"tie_word_embeddings\": false",
            "tensor `lm_head.weight`",
        ),
    ] {
        std::fs::write(&config, text.replace(from, to))?;
        let error = BaseModelFiles::open(folder.path())?
            .weights()
            .err()
            .context(to)?;
        ensure!(error.to_string().contains(expected), "{error}");
    }
    Ok(())
}

#[test]
fn a_directory_without_configuration_and_a_file_that_is_no_gguf_are_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let error = BaseModelFiles::open(folder.path())
        .err()
        .context("no error")?;
    ensure!(
        error.to_string().contains("config.json") && error.to_string().contains("one .gguf file"),
        "{error}"
    );
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, "pickle")?;
    let error = BaseModelFiles::open(&path).err().context("no error")?;
    ensure!(
        error.to_string().contains("does not begin with `GGUF`"),
        "{error}"
    );
    Ok(())
}

#[test]
fn files_written_for_a_whole_model_out_of_a_gguf_describe_the_same_model() -> Result<()> {
    let gguf = open("gguf/q4_1.gguf")?;
    let folder = tempfile::tempdir()?;
    for (name, bytes) in gguf.companions()? {
        std::fs::write(folder.path().join(name), bytes)?;
    }
    let again = BaseModelFiles::open(folder.path())?;
    ensure!(again.config() == gguf.config(), "{:?}", again.config());
    ensure!(again.tokenizer().special() == gguf.tokenizer().special());
    let text = "Hi <|im_end|> 12";
    ensure!(again.tokenizer().encode(text)? == gguf.tokenizer().encode(text)?);
    ensure!(again.tokenizer().template()?.source() == gguf.tokenizer().template()?.source());
    Ok(())
}

#[test]
fn smollm2_is_read_whole() -> Result<()> {
    let Some(path) = smollm2() else {
        return Ok(());
    };
    let files = BaseModelFiles::open(&path)?;
    ensure!(
        files.config().parameters() == 134_515_008,
        "{:?}",
        files.config()
    );
    let weights = files.weights()?;
    let queries = weights.tensor("model.layers.29.self_attn.q_proj.weight")?;
    ensure!(queries.size() == [576, 576] && queries.kind() == Kind::Float);
    ensure!(queries.isfinite().all().int64_value(&[]) == 1);
    Ok(())
}

fn copy(name: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for entry in std::fs::read_dir(fixtures().join(Path::new(name)))? {
        let entry = entry?;
        std::fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
    }
    Ok(folder)
}
