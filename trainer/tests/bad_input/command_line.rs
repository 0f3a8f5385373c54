//! What the whole command does with a broken base: it ends with the code of an invalid input, names the place, and leaves
//! neither an outcome nor a published version.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use crate::bench::Bench;
use crate::table::{WEIGHTS, copy_of, edit, edit_json, overwrite};

/// A job on a copy of `base` that `spoil` has broken, and the folder of the copy.
fn spoilt(base: &str, spoil: impl Fn(&Path)) -> (Bench, tempfile::TempDir) {
    let folder = copy_of(base);
    spoil(folder.path());
    let gguf = folder.path().join("model.gguf");
    let uri = match gguf.exists() {
        true => format!("file://{}", gguf.display()),
        false => format!("file://{}/", folder.path().display()),
    };
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["baseModel"]["uri"] = uri.clone().into();
    });
    (bench, folder)
}

#[track_caller]
fn refuses(base: &str, words: &[&str], spoil: impl Fn(&Path)) {
    let (bench, _folder) = spoilt(base, spoil);
    let ended = bench.run("train");
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    ended.refused(words);
    assert!(bench.versions().is_empty(), "a version was published");
    for name in ["outcome.json", "output", "metrics.csv"] {
        assert!(!bench.work().join(name).exists(), "{name} was left behind");
    }
}

#[test]
fn weights_cut_short() {
    refuses(
        "tiny-llama",
        &[WEIGHTS, "beyond the end of the file"],
        |folder| {
            edit(folder, WEIGHTS, |bytes| bytes.truncate(bytes.len() - 4));
        },
    );
}

#[test]
fn a_weight_that_is_no_number() {
    let name = "model.layers.1.mlp.down_proj.weight";
    refuses("tiny-llama", &[WEIGHTS, name, "element [0, 1]"], |folder| {
        overwrite(folder, name, 4, &f32::NAN.to_le_bytes());
    });
}

#[test]
fn a_pickle_in_place_of_the_weights() {
    refuses(
        "tiny-llama",
        &["pytorch_model.bin is a pickle", "save_pretrained"],
        |folder| {
            std::fs::rename(folder.join(WEIGHTS), folder.join("pytorch_model.bin")).unwrap();
        },
    );
}

#[test]
fn a_pickle_named_as_the_base() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["baseModel"]["uri"] = "file:///models/pytorch_model.bin".into();
    });
    bench.run("prepare").refused(&[
        "file:///models/pytorch_model.bin",
        "is a pickle",
        "save_pretrained",
    ]);
}

#[test]
fn an_absurd_number_of_layers() {
    refuses("tiny-llama", &["config.json", "4000000000"], |folder| {
        edit_json(folder, "config.json", |keys| {
            keys["num_hidden_layers"] = 4_000_000_000_u64.into();
        });
    });
}

#[test]
fn a_shard_outside_the_folder() {
    refuses(
        "tiny-llama-sharded",
        &["../model-1.safetensors"],
        |folder| {
            edit_json(folder, "model.safetensors.index.json", |keys| {
                keys["weight_map"]["a"] = "../model-1.safetensors".into();
            });
        },
    );
}

#[test]
fn a_gguf_cut_short() {
    refuses(
        "gguf/q4_1.gguf",
        &["model.gguf", "beyond the end of the file"],
        |folder| {
            edit(folder, "model.gguf", |bytes| {
                bytes.truncate(bytes.len() / 2)
            });
        },
    );
}

#[test]
fn a_rank_over_the_matrix() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["method"] = json!({ "lora": { "rank": 17 } });
    });
    let words = [
        "spec.method.lora: `rank` gives `model.layers.0.self_attn.k_proj` the rank 17",
        "16 x 32 (out x in)",
        "rankPattern: { k_proj: 16 }",
    ];
    bench.run("prepare").refused(&words);
    bench.run("train").refused(&words);
    assert!(bench.versions().is_empty(), "a version was published");
}

#[test]
fn an_engine_that_cannot_serve_the_modules() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["method"] = json!({ "lora": { "rank": 4, "targetModules": ["q_proj"] } });
        job["spec"]["output"] = json!({ "adapter": { "engines": ["SGLang"] } });
    });
    bench.run("prepare").refused(&[
        "spec.method.lora.targetModules name q_proj of `model.layers.0.self_attn` but not v_proj",
        "add v_proj, or remove SGLang from spec.output.adapter.engines",
    ]);
}

#[test]
fn a_manifest_that_is_not_utf_8() {
    let bench = Bench::new(1);
    std::fs::write(bench.job(), [0xff, 0xfe, 0x00]).unwrap();
    bench.run("train").refused(&["job.yaml", "UTF-8"]);
}

/// Each anchor holds nine of the one before: a small file that would take up all memory.
#[test]
fn a_manifest_that_unfolds_without_end() {
    let bench = Bench::new(1);
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for number in 1..12 {
        let nine = vec![format!("*a{}", number - 1); 9].join(", ");
        writeln!(text, "a{number}: &a{number} [{nine}]").unwrap();
    }
    std::fs::write(bench.job(), text).unwrap();
    bench.run("train").refused(&["job.yaml"]);
}
