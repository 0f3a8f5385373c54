//! An adapter as one GGUF file against the gguf package's, and against PEFT's adapter on the weights of a GGUF base.

use std::collections::BTreeMap;
use std::path::Path;

use finetune_artifacts::gguf::GgufFile;
use finetune_numerics::adapter::Lora;
use finetune_numerics::model::WeightSource;
use rstest::rstest;
use tch::{Kind, Tensor};
use trainer::base::BaseModelFiles;
use trainer::export::Merged;
use trainer::export::gguf_adapter::{About, write};

use crate::families::for_every_family;
use crate::fixture::{assert_close, path};
use crate::tolerance::SINGLE;

const ABOUT: About<'_> = About {
    name: "support",
    base: "owner/base",
    revision: Some("c0ffee"),
};

/// The file that is written of an adapter.
struct Written {
    file: GgufFile,
    _folder: tempfile::TempDir,
}

fn written(base: &Path, adapter: &Path) -> (Written, BaseModelFiles, Lora) {
    let files = BaseModelFiles::open(base).unwrap();
    let lora = trainer::peft::read(adapter, files.config()).unwrap().lora;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    write(&path, files.config(), &lora, ABOUT).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let written = Written {
        file,
        _folder: folder,
    };
    (written, files, lora)
}

fn tensor(file: &GgufFile, name: &str) -> Tensor {
    let info = file.tensor(name).unwrap();
    let mut values = vec![0.0_f32; info.elements()];
    file.dequantize(name, &mut values).unwrap();
    let shape: Vec<i64> = info.shape.iter().map(|size| *size as i64).collect();
    Tensor::from_slice(&values).view(shape.as_slice())
}

#[rstest]
fn names_shapes_values_and_keys_are_the_gguf_packages(
    #[values(
        "tiny-llama",
        "tiny-llama-rslora",
        "tiny-llama-patterns",
        "tiny-llama-64"
    )]
    name: &str,
) {
    let base = match name {
        "tiny-llama-64" => name,
        _ => "tiny-llama",
    };
    assert_is_the_gguf_packages(name, &path(base), &path(&format!("adapters/{name}")));
}

for_every_family! {
    fn names_shapes_values_and_keys_of_a_family_are_the_gguf_packages(name) {
        let folder = path(&format!("families/{name}"));
        assert_is_the_gguf_packages(name, &folder, &folder.join("adapter"));
    }
}

#[track_caller]
fn assert_is_the_gguf_packages(name: &str, base: &Path, adapter: &Path) {
    let (ours, ..) = written(base, adapter);
    let theirs = GgufFile::open(&path(&format!("gguf-adapters/{name}.gguf"))).unwrap();
    for key in theirs.metadata_keys() {
        assert_eq!(ours.file.metadata(key), theirs.metadata(key), "{key}");
    }
    let names = |file: &GgufFile| -> Vec<String> {
        file.tensors().map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(names(&ours.file), names(&theirs));
    for name in names(&theirs) {
        let (ours, theirs) = (tensor(&ours.file, &name), tensor(&theirs, &name));
        assert_eq!(ours.size(), theirs.size(), "{name}");
        // Where B carries a part of the scale, it is rounded once here and once there.
        assert_close(&name, &ours, &theirs, 1e-7);
    }
    let text = |key: &str| ours.file.metadata(key).unwrap().as_str();
    assert_eq!(text("general.base_model.0.name"), Some("owner/base"));
    assert_eq!(text("general.base_model.0.version"), Some("c0ffee"));
}

/// What llama.cpp computes with: the base's matrix as its file has it, plus alpha / r · B · A of the adapter's file.
#[rstest]
#[case("gguf/mixed.gguf", "tiny-llama-64")]
#[case("tiny-llama", "tiny-llama-rslora")]
#[case("tiny-llama", "tiny-llama-patterns")]
fn base_and_gguf_adapter_together_are_base_and_peft_adapter(
    #[case] base: &str,
    #[case] adapter: &str,
) {
    let (ours, files, lora) = written(&path(base), &path(&format!("adapters/{adapter}")));
    let weights = files.weights().unwrap();
    let merged = Merged::new(weights.as_ref(), &lora);
    let alpha = ours.file.metadata("adapter.lora.alpha").unwrap().as_f64();
    let config = files.config();
    let heads: BTreeMap<&str, i64> =
        [("attn_q", config.heads), ("attn_k", config.key_value_heads)].into();
    let parts = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    for layer in 0..config.layers {
        for (theirs, part) in parts {
            let name = format!("model.layers.{layer}.{theirs}.weight");
            // As llama.cpp's converter: rows (head, half, place) become rows (head, place, half).
            let reordered = |matrix: &Tensor| match heads.get(part) {
                None => matrix.shallow_clone(),
                Some(heads) => {
                    let (rows, width) = matrix.size2().unwrap();
                    matrix
                        .view([*heads, 2, rows / heads / 2, width])
                        .transpose(1, 2)
                        .reshape([rows, width])
                }
            };
            let of = |half: &str| tensor(&ours.file, &format!("blk.{layer}.{part}.weight.{half}"));
            let (a, b) = (of("lora_a"), of("lora_b"));
            let scale = alpha.unwrap() / a.size()[0] as f64;
            let stored = reordered(&weights.tensor(&name).unwrap().to_kind(Kind::Float));
            let theirs = stored + b.mm(&a) * scale;
            let expected = merged.tensor(&name).unwrap().to_kind(Kind::Float);
            // Merged weights are rounded to the type of the file.
            let rounded = match weights.tensor(&name).unwrap().kind() {
                Kind::BFloat16 => 4e-3,
                Kind::Half => 5e-4,
                _ => SINGLE,
            };
            assert_close(&name, &theirs, &reordered(&expected), rounded);
        }
    }
}

#[test]
fn magnitudes_are_refused() {
    let files = BaseModelFiles::open(&path("tiny-llama-64")).unwrap();
    let adapter = path("adapters/tiny-llama-64-dora");
    let lora = trainer::peft::read(&adapter, files.config()).unwrap().lora;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    let error = write(&path, files.config(), &lora, ABOUT).unwrap_err();
    assert!(error.message.contains("has magnitudes (DoRA)"), "{error}");
    assert!(!path.exists());
}
