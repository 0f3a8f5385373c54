//! Adapters as PEFT writes them: read whole, written to the same bytes, refused where they are something else.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use finetune_artifacts::safetensors_file::{self, SafetensorsFile, TensorData};
use finetune_numerics::adapter::{AdaptedModule, Lora, LoraSettings as Settings};
use rstest::rstest;
use trainer::base::BaseModelFiles;
use trainer::peft::{self, AdapterConfig};

use crate::fixtures;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

fn model(name: &str) -> Result<BaseModelFiles> {
    Ok(BaseModelFiles::open(&fixtures().join(name))?)
}

#[rstest]
#[case("tiny-llama", "tiny-llama")]
#[case("tiny-llama-bias", "tiny-llama-bias")]
#[case("tiny-llama-64", "tiny-llama-64")]
#[case("tiny-llama-rslora", "tiny-llama")]
#[case("tiny-llama-patterns", "tiny-llama")]
#[case("tiny-llama-bias-dora", "tiny-llama-bias")]
#[case("tiny-llama-64-dora", "tiny-llama-64")]
fn an_adapter_that_peft_wrote_is_written_back_to_the_same_bytes(
    #[case] name: &str,
    #[case] base: &str,
) -> Result<()> {
    let source = fixtures().join("adapters").join(name);
    let adapter = peft::read(&source, model(base)?.config())?;
    let folder = tempfile::tempdir()?;
    peft::write(folder.path(), &adapter.config, &adapter.lora)?;
    for file in [CONFIG, WEIGHTS] {
        ensure!(
            std::fs::read(folder.path().join(file))? == std::fs::read(source.join(file))?,
            "{file}"
        );
    }
    Ok(())
}

fn patterns() -> Settings {
    let pattern = |entries: &[(&str, i64)]| {
        let entries = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), *value));
        entries.collect()
    };
    Settings {
        rank_pattern: pattern(&[
            ("e_proj", 7),
            ("model.layers.1.mlp.down_proj", 2),
            ("q_proj", 8),
            (r"layers\.[02]\.self_attn\.v_proj", 3),
        ]),
        alpha_pattern: pattern(&[("mlp.up_proj", 3), ("q_proj", 5)]),
        use_rslora: true,
        ..Settings::default()
    }
}

fn dora() -> Settings {
    Settings {
        use_dora: true,
        ..Settings::default()
    }
}

#[rstest]
#[case::many_modules_by_suffix("tiny-llama", "tiny-llama", Settings::default())]
#[case::few_modules_by_path("tiny-llama-64", "tiny-llama-64", Settings::default())]
#[case::dora("tiny-llama-64-dora", "tiny-llama-64", dora())]
#[case::patterns("tiny-llama-patterns", "tiny-llama", patterns())]
fn a_fresh_adapter_is_described_as_peft_would(
    #[case] name: &str,
    #[case] base_name: &str,
    #[case] settings: Settings,
) -> Result<()> {
    let base = model(base_name)?;
    let mut settings = Settings {
        rank: 4,
        alpha: 8,
        ..settings
    };
    let config = AdapterConfig::of_training(base.config(), &settings, 0.0, base_name);
    let expected = std::fs::read(fixtures().join("adapters").join(name).join(CONFIG))?;
    ensure!(
        config.to_bytes() == expected,
        "{}",
        String::from_utf8_lossy(&config.to_bytes())
    );
    // A pattern that hits nothing is PEFT's to pass over, and refused in a manifest.
    settings.rank_pattern.remove("e_proj");
    let folder = tempfile::tempdir()?;
    peft::write(
        folder.path(),
        &config,
        &Lora::new(base.config(), &settings, 42)?,
    )?;
    peft::read(folder.path(), base.config())?;
    Ok(())
}

/// Last names alone would also name modules of the vision tower.
#[rstest]
#[case("phi3", "qkv_proj", 4)]
#[case(
    "gemma3-multimodal",
    "model.language_model.layers.39.self_attn.q_proj",
    280
)]
fn all_linear_layers_of_a_deep_model_are_named_so_that_they_mean_no_other(
    #[case] family: &str,
    #[case] word: &str,
    #[case] words: usize,
) -> Result<()> {
    let files = BaseModelFiles::open(&fixtures().join("families").join(family))?;
    let mut deep = files.config().clone();
    deep.layers = 40;
    let settings = Settings {
        target_modules: vec!["all-linear".to_owned()],
        ..Settings::default()
    };
    let config = AdapterConfig::of_training(&deep, &settings, 0.0, family);
    ensure!(config.target_modules.len() == words, "{config:?}");
    ensure!(
        config.target_modules.iter().any(|known| known == word),
        "{config:?}"
    );
    Ok(())
}

#[test]
fn each_module_has_the_rank_and_scale_that_peft_gave_it() -> Result<()> {
    let base = model("tiny-llama")?;
    let of = |name: &str| -> Result<_> {
        let folder = fixtures().join("adapters").join(name);
        Ok(peft::read(&folder, base.config())?.lora.modules().to_vec())
    };
    let scales = |modules: &[AdaptedModule]| -> Vec<f64> {
        modules.iter().map(|module| module.scaling).collect()
    };
    ensure!(scales(&of("tiny-llama")?) == [2.0; 21]);
    ensure!(scales(&of("tiny-llama-rslora")?) == [4.0; 21]);
    for module in of("tiny-llama-patterns")? {
        let (rank, alpha): (i64, f64) = match module.name.as_str() {
            "model.layers.1.mlp.down_proj" => (2, 8.0),
            "model.layers.0.self_attn.v_proj" | "model.layers.2.self_attn.v_proj" => (3, 8.0),
            name if name.ends_with(".q_proj") => (8, 5.0),
            name if name.ends_with(".up_proj") => (4, 3.0),
            _ => (4, 8.0),
        };
        let expected = AdaptedModule {
            rank,
            scaling: alpha / (rank as f64).sqrt(),
            dora: false,
            name: module.name.clone(),
        };
        ensure!(module == expected, "{module:?}, expected {expected:?}");
    }
    Ok(())
}

#[rstest]
#[case(
    "\"LORA\"",
    "\"LOHA\"",
    "`peft_type` is \"LOHA\", which is not supported; expected \"LORA\""
)]
#[case(
    "\"use_dora\": false",
    "\"use_dora\": true",
    "lora_magnitude_vector` is missing, though `use_dora` is true"
)]
#[case("\"bias\": \"none\"", "\"bias\": \"all\"", "`bias` is \"all\"")]
#[case(
    "\"modules_to_save\": null",
    "\"modules_to_save\": [\"lm_head\"]",
    "`modules_to_save` is [\"lm_head\"]"
)]
#[case(
    "\"rank_pattern\": {}",
    "\"rank_pattern\": {\"q_proj\": 8}",
    "has shape [4, 32], expected the rank 8"
)]
#[case(
    "\"init_lora_weights\": true",
    "\"init_lora_weights\": \"pissa\"",
    "changes the base model too"
)]
#[case(
    "\"alpha_pattern\": {}",
    "\"alpha_pattern\": {\"q_proj\": 0}",
    "`alpha_pattern.q_proj` is 0, expected a positive number"
)]
#[case(
    "\"rank_pattern\": {}",
    "\"rank_pattern\": {\"(q_proj\": 4}",
    "`rank_pattern` has the pattern `(q_proj`, which is no regular expression"
)]
#[case("\"r\": 4", "\"r\": 5", "expected the rank 5")]
#[case("\"r\": 4", "\"r\": 0", "`r` is 0, expected an integer from 1")]
#[case(
    "\"q_proj\"",
    "\"x_proj\"",
    "is there, though `target_modules` does not name its module"
)]
#[case(
    "\"use_qalora\": false",
    "\"a_new_idea\": 3",
    "`a_new_idea` is 3, which is not supported"
)]
fn an_adapter_of_another_kind_is_refused_by_its_key(
    #[case] from: &str,
    #[case] to: &str,
    #[case] expected: &str,
) -> Result<()> {
    let folder = copy("tiny-llama")?;
    let path = folder.path().join(CONFIG);
    let text = std::fs::read_to_string(&path)?;
    ensure!(text.contains(from));
    std::fs::write(&path, text.replace(from, to))?;
    let error = peft::read(folder.path(), model("tiny-llama")?.config())
        .err()
        .context("no error")?;
    ensure!(error.to_string().contains(expected), "{error}");
    Ok(())
}

/// Writes the adapter's tensors again, but for what `change` does to each: `None` leaves it out.
fn rewrite(
    folder: &Path,
    change: impl Fn(&str, &mut Vec<usize>, &mut Vec<u8>) -> Option<String>,
) -> Result<()> {
    let file = SafetensorsFile::open(&folder.join(WEIGHTS))?;
    let mut tensors = Vec::new();
    for name in file.names() {
        let view = file.tensor(name)?;
        let (mut shape, mut bytes) = (view.shape.to_vec(), view.bytes.to_vec());
        if let Some(name) = change(name, &mut shape, &mut bytes) {
            tensors.push((name, view.dtype, shape, bytes));
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            name.as_str(),
            TensorData {
                dtype: *dtype,
                shape,
                bytes,
            },
        )
    });
    safetensors_file::write(&folder.join(WEIGHTS), views, None)?;
    Ok(())
}

const FIRST: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

/// What is said of the adapter with its tensors so changed.
fn refused(
    change: impl Fn(&str, &mut Vec<usize>, &mut Vec<u8>) -> Option<String>,
) -> Result<String> {
    let folder = copy("tiny-llama")?;
    rewrite(folder.path(), change)?;
    let error = peft::read(folder.path(), model("tiny-llama")?.config())
        .err()
        .context("no error")?;
    Ok(error.to_string())
}

#[test]
fn a_missing_an_alien_a_misshapen_and_a_broken_tensor_are_named() -> Result<()> {
    let missing = refused(|name, _, _| (name != FIRST).then(|| name.to_owned()))?;
    ensure!(
        missing.contains(FIRST) && missing.contains("is missing"),
        "{missing}"
    );

    let alien = refused(|name, _, _| {
        Some(if name == FIRST {
            name.replace("layers.0", "layers.9")
        } else {
            name.to_owned()
        })
    })?;
    ensure!(
        alien.contains("is missing") || alien.contains("layers.9"),
        "{alien}"
    );

    let misshapen = refused(|name, shape, bytes| {
        if name == FIRST {
            *shape = vec![4, 16];
            bytes.truncate(4 * 16 * 4);
        }
        Some(name.to_owned())
    })?;
    ensure!(
        misshapen.contains(FIRST) && misshapen.contains("expected [4, 32]"),
        "{misshapen}"
    );

    let broken = refused(|name, _, bytes| {
        if name == FIRST {
            bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        Some(name.to_owned())
    })?;
    ensure!(
        broken.contains(FIRST) && broken.contains("holds NaN"),
        "{broken}"
    );
    Ok(())
}

#[test]
fn an_adapter_of_another_base_is_refused() -> Result<()> {
    let folder = fixtures().join("adapters/tiny-llama");
    ensure!(peft::read(&folder, model("tiny-llama-64")?.config()).is_err());
    Ok(())
}

fn copy(name: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for file in [CONFIG, WEIGHTS] {
        std::fs::copy(
            fixtures().join("adapters").join(name).join(file),
            folder.path().join(file),
        )?;
    }
    Ok(folder)
}
