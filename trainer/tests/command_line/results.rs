//! What a run leaves behind beside its adapter: metrics, the best weights instead of the last, merged weights, answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bench::{Bench, rows};

fn metrics(bench: &Bench) -> Vec<Value> {
    bench
        .read("metrics.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The loss of the job's base, or of base and adapter.
fn evaluated(bench: &Bench, arguments: &[&str]) -> f64 {
    bench.run_with("evaluate", arguments).succeeded();
    bench.read_json("evaluation.json")["loss"].as_f64().unwrap()
}

#[track_caller]
fn assert_near(ours: f64, expected: f64, tolerance: f64) {
    assert!(
        (ours / expected - 1.0).abs() <= tolerance,
        "{ours}, expected {expected}"
    );
}

/// A job that learns by heart: its validation loss falls, then rises.
fn overfitting(patience: u64) -> Bench {
    Bench::with("tiny-llama", |job| {
        job["spec"]["training"]["maxSteps"] = 400.into();
        job["spec"]["training"]["schedule"] = "Constant".into();
        job["spec"]["training"]["learningRate"] = 0.02.into();
        job["spec"]["training"]["earlyStopping"] = json!({ "patience": patience });
        job["spec"]["dataset"]["validation"]["everySteps"] = 5.into();
    })
}

#[test]
fn once_the_validation_loss_rises_the_run_ends_and_the_best_weights_are_published() {
    let bench = overfitting(3);
    let ended = bench.run("train").succeeded();
    let outcome = ended.outcome();
    let rows = metrics(&bench);
    let validated: Vec<(u64, f64)> = rows
        .iter()
        .filter_map(|row| Some((row["step"].as_u64()?, row["validationLoss"].as_f64()?)))
        .collect();
    let (last_step, last) = *validated.last().unwrap();
    let best = validated.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(last_step < 400, "it ran to the end: {validated:?}");
    assert_eq!(rows.last().unwrap()["step"], last_step);
    assert_eq!(
        last_step,
        best.0 + 15,
        "three validations after the best: {validated:?}"
    );
    // By more than what the published loss is compared to below; by how much is the processor's affair.
    assert!(last > (1.0 + 1e-5) * best.1, "{validated:?}");

    let progress = &outcome["progress"];
    assert_eq!(progress["totalSteps"], last_step);
    assert_eq!(progress["bestStep"], best.0);
    let [version] = bench.versions().try_into().unwrap();
    let version = version.display().to_string();
    let published = evaluated(&bench, &["--adapter", &version, "--rows", "validation"]);
    assert_near(published, best.1, 1e-6);
}

#[test]
fn without_early_stopping_the_last_weights_are_published() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["training"]["maxSteps"] = 100.into();
        job["spec"]["training"]["schedule"] = "Constant".into();
        job["spec"]["training"]["learningRate"] = 0.02.into();
    });
    bench.run("train").succeeded();
    let last = metrics(&bench).pop().unwrap()["validationLoss"]
        .as_f64()
        .unwrap();
    let [version] = bench.versions().try_into().unwrap();
    let version = version.display().to_string();
    let published = evaluated(&bench, &["--adapter", &version, "--rows", "validation"]);
    assert_near(published, last, 1e-6);
}

#[test]
fn metrics_come_in_three_forms_that_agree() {
    let bench = Bench::new(20);
    bench.run("train").succeeded();
    let rows = metrics(&bench);
    let csv = bench.read("metrics.csv");
    let mut lines = csv.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,")
    );
    for (row, line) in rows.iter().zip(lines.by_ref()) {
        let cells: Vec<&str> = line.split(',').collect();
        for (cell, key) in cells.iter().zip([
            "step",
            "loss",
            "accuracy",
            "validationLoss",
            "validationAccuracy",
        ]) {
            match (cell.parse::<f64>().ok(), row[key].as_f64()) {
                (None, None) => {}
                (Some(cell), Some(number)) => {
                    assert!((cell - number).abs() < 1e-12, "{key} of {line}");
                }
                _ => panic!("{key} of {line}"),
            }
        }
    }
    assert_eq!(lines.next(), None);
    let accuracies: Vec<f64> = rows
        .iter()
        .map(|row| row["accuracy"].as_f64().unwrap())
        .collect();
    assert!(
        accuracies[19] > accuracies[0]
            && accuracies
                .iter()
                .all(|accuracy| (0.0..=1.0).contains(accuracy)),
        "{accuracies:?}"
    );

    let events = std::fs::read(
        bench
            .work()
            .join("tensorboard/events.out.tfevents.0.trainer"),
    )
    .unwrap();
    let events = records(&events);
    assert_eq!(
        events.len(),
        rows.len() + 1,
        "the version, then a record a step"
    );
    let contains =
        |record: &[u8], part: &[u8]| record.windows(part.len()).any(|window| window == part);
    assert!(contains(events[0], b"brain.Event:2"));
    for (row, event) in rows.iter().zip(&events[1..]) {
        let loss = row["loss"].as_f64().unwrap() as f32;
        // The tag, then field 2 as a float.
        let expected = [b"train/loss\x15".as_slice(), &loss.to_le_bytes()].concat();
        assert!(contains(event, &expected), "{row}");
        assert_eq!(
            contains(event, b"validation/loss"),
            row.get("validationLoss").is_some()
        );
    }
}

/// The records of an event file: length, checksum, data, checksum.
fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        records.push(&bytes[12..12 + length]);
        bytes = &bytes[16 + length..];
    }
    records
}

#[test]
fn a_jump_of_the_loss_is_told_and_counted() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["training"] = json!({
            "maxSteps": 40, "batchSize": 1, "learningRate": 0.01, "schedule": "Constant",
            "shuffle": false, "computeType": "Float32",
        });
        job["spec"]["dataset"]
            .as_object_mut()
            .unwrap()
            .remove("validation");
    });
    let mut same = vec![rows(2).pop().unwrap(); 40];
    same[35] = rows(1)
        .pop()
        .unwrap()
        .replace("0 and 0", "zyx wvu tsr qpo nml kji");
    bench.write_data(&same);
    let ended = bench.run("train").succeeded();
    assert!(
        ended.stderr.contains("step 36: the loss jumped to"),
        "{}",
        ended.stderr
    );
    let spikes: Vec<u64> = metrics(&bench)
        .iter()
        .filter(|row| row["spike"] == true)
        .map(|row| row["step"].as_u64().unwrap())
        .collect();
    // The step that follows may suffer from it.
    assert!(spikes[0] == 36 && spikes.len() <= 3, "{spikes:?}");
    assert_eq!(ended.outcome()["progress"]["lossSpikes"], spikes.len());
}

/// The folder of the job's merged model.
fn merged_folder(bench: &Bench) -> PathBuf {
    let folder = bench.work().join("output/default/tiny/model");
    let [only] = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    only
}

/// The loss of a model in a folder on the rows of `bench`, as a base.
fn loss_of_model(bench: &Bench, folder: &Path) -> f64 {
    let alone = Bench::with("tiny-llama", |job| {
        job["spec"]["baseModel"]["uri"] = format!("file://{}/", folder.display()).into();
        job["spec"]["dataset"]["train"][0]["uri"] =
            format!("file://{}", bench.data().display()).into();
    });
    evaluated(&alone, &[])
}

#[test]
fn a_merged_model_says_what_base_and_adapter_say() {
    // The base in 4 bits while training, and one out of a GGUF file.
    for (base, method) in [
        ("tiny-llama", "lora"),
        ("tiny-llama-64", "qlora"),
        ("gguf/q4_1.gguf", "qlora"),
    ] {
        let bench = Bench::with(base, |job| {
            if let Some(uri) = job["spec"]["baseModel"]["uri"]
                .as_str()
                .unwrap()
                .strip_suffix(".gguf/")
            {
                job["spec"]["baseModel"]["uri"] = format!("{uri}.gguf").into();
            }
            let settings = json!({ "rank": 4, "alpha": 8 });
            job["spec"]["method"] = json!({ method: settings });
            job["spec"]["training"]["maxSteps"] = 10.into();
            job["spec"]["output"] = json!({ "mergedModel": true });
        });
        let outcome = bench.run("train").succeeded().outcome();
        let [adapter] = bench.versions().try_into().unwrap();
        let merged = merged_folder(&bench);
        assert_eq!(
            outcome["model"]["uri"]
                .as_str()
                .unwrap()
                .trim_end_matches('/'),
            format!("file://{}", merged.display())
        );

        // The adapter on the base as its files have it.
        let dense = Bench::with("tiny-llama", |job| {
            *job = serde_json::from_str(&std::fs::read_to_string(bench.job()).unwrap()).unwrap();
            job["spec"]["method"] = json!({ "lora": { "rank": 4, "alpha": 8 } });
            job["spec"]["output"] = json!({});
        });
        let both = evaluated(&dense, &["--adapter", &adapter.display().to_string()]);
        let alone = evaluated(&dense, &[]);
        let ours = loss_of_model(&bench, &merged);
        assert_near(ours, both, 1e-5);
        assert!((ours / alone - 1.0).abs() > 1e-2, "{ours} and {alone}");

        // By hand the same model, to the last byte.
        let by_hand = bench.run("merge").succeeded().outcome();
        assert_eq!(by_hand["digest"], outcome["model"]["digest"]);
    }
}

#[test]
fn a_gguf_adapter_lies_beside_pefts_files_which_stay_the_same() {
    let trained = |gguf: bool| {
        let bench = Bench::with("tiny-llama", |job| {
            job["spec"]["training"]["maxSteps"] = 3.into();
            job["spec"]["method"] = json!({ "lora": { "rank": 4, "alpha": 8, "useRslora": true } });
            let output =
                json!({ "ggufAdapter": gguf, "adapter": { "engines": ["VLLM", "Finetune"] } });
            job["spec"]["output"] = output;
        });
        let outcome = bench.run("train").succeeded().outcome();
        let [version] = bench.versions().try_into().unwrap();
        (bench, outcome, version)
    };
    let (_plain_bench, plain_outcome, plain) = trained(false);
    let (bench, outcome, version) = trained(true);
    let gguf = version.join("adapter.gguf");
    assert_eq!(
        outcome["ggufAdapter"],
        format!("file://{}", gguf.display()).as_str()
    );
    assert!(plain_outcome["ggufAdapter"].is_null());
    assert!(!plain.join("adapter.gguf").exists());
    for name in [
        "adapter_config.json",
        "adapter_model.safetensors",
        "golden.json",
    ] {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert_eq!(read(&version), read(&plain), "{name}");
    }
    let manifest = std::fs::read_to_string(version.join("manifest.json")).unwrap();
    assert!(manifest.contains("adapter.gguf"), "{manifest}");
    assert!(std::fs::read(&gguf).unwrap().starts_with(b"GGUF"));

    let card = |folder: &Path| std::fs::read_to_string(folder.join("README.md")).unwrap();
    let command = "llama-server -m base.gguf --lora adapter/adapter.gguf";
    assert!(card(&version).contains(command), "{}", card(&version));
    assert!(!card(&plain).contains(command));

    // The server and `generate` take the folder as they did.
    let ask = ["--prompt", "what is 7?", "--max-new-tokens", "2"];
    bench.run_with("generate", &ask).succeeded();
}

#[test]
fn the_model_card_says_what_it_was_made_from_and_which_engines_serve_it() {
    for (lora, vllm, sglang) in [
        (json!({ "rank": 4 }), true, true),
        (json!({ "rank": 4, "useRslora": true }), true, false),
        (json!({ "rank": 4, "useDora": true }), false, false),
    ] {
        let bench = Bench::with("tiny-llama", |job| {
            job["spec"]["training"]["maxSteps"] = 3.into();
            job["spec"]["method"] = json!({ "lora": lora });
        });
        let outcome = bench.run("train").succeeded().outcome();
        let [version] = bench.versions().try_into().unwrap();
        let card = std::fs::read_to_string(version.join("README.md")).unwrap();
        let has = |text: &str| card.contains(text);
        for field in [
            &outcome["baseModel"]["digest"],
            &outcome["dataset"]["digest"],
        ] {
            assert!(has(field.as_str().unwrap()), "{field} is not in {card}");
        }
        for row in [
            "| Rank | 4 |",
            "| Alpha | 32 |",
            "| Optimiser steps | 3 |",
            "| Seed | 42 |",
        ] {
            assert!(has(row), "{row} is not in {card}");
        }
        assert!(has("PeftModel.from_pretrained") && has("trainer serve --model"));
        assert_eq!(
            has("--enable-lora --max-lora-rank 8 --lora-modules tiny=adapter/"),
            vllm
        );
        assert_eq!(has("vLLM cannot serve it"), !vllm);
        assert_eq!(has("sglang.launch_server"), sglang, "{card}");
    }
}

/// The tensors of a folder's `model.safetensors`: type, shape and bytes by name.
fn stored(folder: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let kind = format!("{:?} {:?}", view.dtype(), view.shape());
        (name, (kind, view.data().to_vec()))
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// Puts a tensor of whole numbers beside the vision tower, as some checkpoints have one.
fn add_buffer_beside(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = file.tensors();
    let (tower, _) = tensors
        .iter()
        .find_map(|(name, _)| name.split_once("vision_tower."))
        .unwrap();
    let name = format!("{tower}vision_tower.position_ids");
    let numbers = [1_i64, -1].map(i64::to_le_bytes).concat();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![2], &numbers);
    tensors.push((name, view.unwrap()));
    let written = safetensors::serialize(tensors, None).unwrap();
    std::fs::write(path, written).unwrap();
}

#[test]
fn a_whole_model_made_from_a_multimodal_base_keeps_what_sees_images() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let fixture = fixtures.join("families/gemma3-multimodal");
    let base = tempfile::tempdir().unwrap();
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(fixture.join(name), base.path().join(name)).unwrap();
    }
    std::fs::write(base.path().join("preprocessor_config.json"), "{}").unwrap();
    let of_images = |name: &str| name.contains("vision_tower") || name.contains("projector");
    add_buffer_beside(&base.path().join("model.safetensors"));
    let before = stored(base.path());
    assert!(before.keys().any(|name| of_images(name)));
    for method in ["full", "lora"] {
        let bench = Bench::with("tiny-llama", |job| {
            job["spec"]["baseModel"]["uri"] = format!("file://{}/", base.path().display()).into();
            job["spec"]["training"]["maxSteps"] = 3.into();
            let settings = if method == "full" {
                json!({})
            } else {
                json!({ "rank": 2 })
            };
            job["spec"]["method"] = json!({ method: settings });
            job["spec"]["output"] = json!({ "mergedModel": method == "lora" });
        });
        let row = |number: usize| json!({ "prompt": "w7 ", "completion": format!("w{number}") });
        let rows: Vec<String> = (10..40).map(|number| row(number).to_string()).collect();
        bench.write_data(&rows);
        let outcome = bench.run("train").succeeded().outcome();
        let model = merged_folder(&bench);

        let after = stored(&model);
        assert!(after.keys().eq(before.keys()), "{:?}", after.keys());
        for (name, (kind, bytes)) in &before {
            let (new_kind, new_bytes) = &after[name];
            assert_eq!(new_kind, kind, "{name}");
            if of_images(name) {
                assert_eq!(new_bytes, bytes, "{name}");
            }
            if name.ends_with("down_proj.weight") {
                assert_ne!(new_bytes, bytes, "{name}");
            }
        }
        let read = |folder: &Path, name: &str| std::fs::read(folder.join(name)).unwrap();
        for name in ["config.json", "preprocessor_config.json"] {
            assert_eq!(read(&model, name), read(base.path(), name), "{name}");
        }
        // It is a base again: its loss is that of what was trained, but for the rounding of its weights to bf16.
        let ours = loss_of_model(&bench, &model);
        if method == "lora" {
            let [adapter] = bench.versions().try_into().unwrap();
            let both = evaluated(&bench, &["--adapter", &adapter.display().to_string()]);
            assert_near(ours, both, 1e-2);
            let by_hand = bench.run("merge").succeeded().outcome();
            assert_eq!(by_hand["digest"], outcome["model"]["digest"]);
        }
        assert!(
            (ours / evaluated(&bench, &[]) - 1.0).abs() > 1e-2,
            "{method}: {ours}"
        );
    }
}

#[test]
fn there_is_nothing_to_merge_before_an_adapter_is_published() {
    let bench = Bench::new(3);
    bench
        .run("merge")
        .refused(&["has published no adapter yet", "--adapter"]);
}

#[test]
fn generate_answers_with_what_was_learnt() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["training"]["maxSteps"] = 150.into();
        job["spec"]["training"]["schedule"] = "Constant".into();
    });
    // One answer to everything, learnt by heart.
    let rows: Vec<String> = rows(40)
        .iter()
        .map(|row| {
            let mut row: Value = serde_json::from_str(row).unwrap();
            row["messages"][1]["content"] = "five years".into();
            row.to_string()
        })
        .collect();
    bench.write_data(&rows);
    let ask = ["--prompt", "what is 7?", "--max-new-tokens", "20"];
    let before = bench.run_with("generate", &ask).succeeded();
    assert!(
        before.stderr.contains("the base alone answers"),
        "{}",
        before.stderr
    );
    bench.run("train").succeeded();
    let after = bench.run_with("generate", &ask).succeeded();
    assert_eq!(after.stdout, "five years\n");
    assert_ne!(before.stdout, after.stdout);
    let short = ["--prompt", "what is 7?", "--max-new-tokens", "2"];
    let short = bench.run_with("generate", &short).succeeded().stdout;
    assert!(after.stdout.starts_with(short.trim_end()) && short.len() < after.stdout.len());
    let raw = [
        "--prompt",
        "five",
        "--raw",
        "--max-new-tokens",
        "4",
        "--temperature",
        "0.8",
        "--seed",
        "3",
    ];
    let raw = || bench.run_with("generate", &raw).succeeded().stdout;
    assert_eq!(raw(), raw(), "a seed makes chance repeatable");
}

#[test]
fn packed_rows_are_fewer_steps_and_learn_as_well() {
    let job = |packing: bool| {
        move |job: &mut Value| {
            job["spec"]["dataset"]["packing"] = packing.into();
            job["spec"]["dataset"]["maxSequenceLength"] = 128.into();
            job["spec"]["training"]["batchSize"] = 2.into();
            job["spec"]["training"]["epochs"] = 12.into();
        }
    };
    let packed = Bench::with("tiny-llama", job(true));
    packed.run("train").succeeded();
    let plan = packed.read_json("plan.json");
    let plain = Bench::with("tiny-llama", job(false));
    plain.run("train").succeeded();
    assert!(plain.read_json("plan.json").get("packedRows").is_none());
    let (fewer, more) = (metrics(&packed), metrics(&plain));
    assert_eq!(plan["totalSteps"], fewer.len());
    assert!(
        2 * fewer.len() <= more.len(),
        "{} and {}",
        fewer.len(),
        more.len()
    );
    let tokens = |rows: &[Value]| {
        rows.iter()
            .map(|row| row["tokens"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(tokens(&fewer), tokens(&more), "the same rows, twelve times");
    let loss = |row: Option<&Value>| row.unwrap()["loss"].as_f64().unwrap();
    assert!(loss(fewer.last()) < 0.8 * loss(fewer.first()));
}
