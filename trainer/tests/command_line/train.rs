//! `trainer` by hand, from a manifest to a published adapter and back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use rstest::rstest;
use serde_json::Value;

use crate::bench::{Bench, Ended};

#[test]
fn a_job_by_hand_is_trained_published_and_said_to_be_done() {
    let bench = Bench::new(30);
    let outcome = bench.run("train").succeeded().outcome();
    assert_eq!(outcome["reason"], "Succeeded");
    assert_eq!(outcome["stage"], "Train");

    let rows: Vec<Value> = bench
        .read("metrics.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let losses: Vec<f64> = rows
        .iter()
        .map(|row| row["loss"].as_f64().unwrap())
        .collect();
    assert_eq!(rows.last().unwrap()["step"], 30);
    assert!(losses[29] < 0.7 * losses[0], "{losses:?}");
    let validated: Vec<u64> = rows
        .iter()
        .filter(|row| row.get("validationLoss").is_some())
        .map(|row| row["step"].as_u64().unwrap())
        .collect();
    assert_eq!(validated, [10, 20, 30]);
    assert!(
        bench
            .read("metrics.csv")
            .starts_with("step,train_loss,train_accuracy,valid_loss")
    );
    assert_eq!(bench.read_json("plan.json")["totalSteps"], 30);
    assert_eq!(
        bench.read_json("outcome.json")["adapter"],
        outcome["adapter"]
    );
    assert!(
        !bench.work().join("scratch").exists(),
        "the passing folder is removed"
    );

    let [version] = bench.versions().try_into().unwrap();
    let digest = outcome["adapter"]["digest"]
        .as_str()
        .unwrap()
        .replace(':', "-");
    assert!(version.ends_with(&digest), "{}", version.display());
    let mut names: Vec<String> = std::fs::read_dir(&version)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "golden.json",
            "manifest.json"
        ]
    );
}

#[rstest]
#[case(
    "families/phi3",
    "base_model.model.model.layers.1.mlp.gate_up_proj.lora_B.weight"
)]
#[case(
    "families/gemma3-multimodal",
    "base_model.model.model.language_model.layers.1.mlp.up_proj.lora_B.weight"
)]
fn an_adapter_of_another_family_is_named_as_its_modules_are(
    #[case] base: &str,
    #[case] name: &str,
) {
    let bench = Bench::with(base, |job| job["spec"]["training"]["maxSteps"] = 3.into());
    let row = |number: usize| {
        let completion = format!("w{} w{}", 10 + number, 50 + number);
        serde_json::json!({ "prompt": format!("w7 w{number} "), "completion": completion })
    };
    bench.write_data(
        &(10..40)
            .map(|number| row(number).to_string())
            .collect::<Vec<_>>(),
    );
    let outcome = bench.run("train").succeeded().outcome();
    assert_eq!(outcome["reason"], "Succeeded");
    let [version] = bench.versions().try_into().unwrap();
    let adapter = std::fs::read(version.join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&adapter).unwrap();
    assert!(file.names().contains(&name), "{:?}", file.names());
}

#[test]
fn a_second_run_prints_the_outcome_and_trains_nothing() {
    let bench = Bench::new(6);
    let first = bench.run("train").succeeded();
    let second = bench.run("train").succeeded();
    assert_eq!(first.outcome()["adapter"], second.outcome()["adapter"]);
    assert!(
        second.stderr.contains("the job is done"),
        "{}",
        second.stderr
    );
    assert!(!second.stderr.contains("training"), "{}", second.stderr);
}

#[test]
fn the_same_job_in_another_folder_has_the_same_digest() {
    let bench = Bench::new(6);
    let one = bench.run("train").succeeded().outcome();
    std::fs::rename(bench.work(), bench.work().with_extension("first")).unwrap();
    let other = bench.run("train").succeeded().outcome();
    assert_eq!(one["adapter"]["digest"], other["adapter"]["digest"]);
    assert_eq!(one["attempt"], other["attempt"]);
}

#[test]
fn another_spec_in_the_same_folder_is_refused() {
    let bench = Bench::new(6);
    bench.run("train").succeeded();
    let job = std::fs::read_to_string(bench.job())
        .unwrap()
        .replace("\"maxSteps\": 6", "\"maxSteps\": 7");
    std::fs::write(bench.job(), job).unwrap();
    bench
        .run("train")
        .refused(&["of another spec", "choose another --work"]);
}

#[test]
fn qlora_and_bfloat16_learn_too() {
    let bench = Bench::with("tiny-llama-64", |job| {
        job["spec"]["method"] = serde_json::json!({ "qlora": { "rank": 4, "alpha": 8 } });
        job["spec"]["training"]["maxSteps"] = 20.into();
        job["spec"]["training"]["computeType"] = "BFloat16".into();
    });
    bench.run("train").succeeded();
    let losses = losses(&bench);
    assert!(losses[19] < 0.8 * losses[0], "{losses:?}");
}

#[test]
fn full_publishes_a_model_that_can_be_trained_again() {
    let full = |job: &mut Value| {
        job["spec"]["method"] = serde_json::json!({ "full": {} });
        job["spec"]["training"]["learningRate"] = 0.001.into();
        job["spec"]["training"]["maxSteps"] = 10.into();
    };
    let bench = Bench::with("tiny-llama", full);
    let outcome = bench.run("train").succeeded().outcome();
    assert!(outcome.get("adapter").is_none());
    let uri = outcome["model"]["uri"].as_str().unwrap().to_owned();
    let first = losses(&bench);

    let again = Bench::with("tiny-llama", |job| {
        full(job);
        job["spec"]["baseModel"]["uri"] = uri.clone().into();
    });
    again.run("train").succeeded();
    let second = losses(&again);
    assert!(second[0] < first[0], "{first:?} then {second:?}");
}

#[test]
fn evaluate_tells_the_adapter_from_the_base() {
    let bench = Bench::new(30);
    bench.run("train").succeeded();
    let [version] = bench.versions().try_into().unwrap();
    let loss = |arguments: &[&str]| {
        bench.run_with("evaluate", arguments).succeeded();
        let evaluation = bench.read_json("evaluation.json");
        assert!(evaluation["tokens"].as_u64() > evaluation["trainableTokens"].as_u64());
        (
            evaluation["loss"].as_f64().unwrap(),
            evaluation["rows"].as_u64().unwrap(),
        )
    };
    let version = version.display().to_string();
    let (base, train_rows) = loss(&[]);
    let (adapter, _) = loss(&["--adapter", &version]);
    assert!(adapter < 0.7 * base, "{base} then {adapter}");
    let (validation, rows) = loss(&["--adapter", &version, "--rows", "validation"]);
    assert_eq!(train_rows + rows, 40);
    let last: Value =
        serde_json::from_str(bench.read("metrics.jsonl").lines().last().unwrap()).unwrap();
    let said = last["validationLoss"].as_f64().unwrap();
    assert!(
        (validation - said).abs() < 1e-6 * said,
        "{validation} and {said}"
    );
}

#[test]
fn the_golden_file_tells_the_adapter_from_the_base() {
    let bench = Bench::new(30);
    bench.run("train").succeeded();
    let [version] = bench.versions().try_into().unwrap();
    let golden: Value =
        serde_json::from_slice(&std::fs::read(version.join("golden.json")).unwrap()).unwrap();
    assert_eq!(golden["dtype"], "float32");
    let numbers = |sample: &Value, key: &str| -> Vec<f64> {
        sample[key]
            .as_array()
            .unwrap()
            .iter()
            .map(|number| number.as_f64().unwrap())
            .collect()
    };
    let samples = golden["samples"].as_array().unwrap();
    assert!(!samples.is_empty());
    for sample in samples {
        let (base, adapter) = (numbers(sample, "base"), numbers(sample, "adapter"));
        assert_eq!(base.len() + 1, sample["tokens"].as_array().unwrap().len());
        let difference = base
            .iter()
            .zip(&adapter)
            .map(|(base, adapter)| (base - adapter).abs())
            .sum::<f64>()
            / base.len() as f64;
        assert!(
            difference > golden["tolerance"].as_f64().unwrap(),
            "{difference}"
        );
    }
}

#[test]
fn a_run_of_a_single_step_learns() {
    let bench = Bench::new(1);
    bench.run("train").succeeded();
    let [version] = bench.versions().try_into().unwrap();
    let golden: Value =
        serde_json::from_slice(&std::fs::read(version.join("golden.json")).unwrap()).unwrap();
    for sample in golden["samples"].as_array().unwrap() {
        assert_ne!(sample["base"], sample["adapter"]);
    }
    let row: Value = serde_json::from_str(bench.read("metrics.jsonl").trim()).unwrap();
    assert!(row["learningRate"].as_f64() > Some(0.0), "{row}");
}

#[test]
fn the_binary_finds_its_libraries_without_a_variable_that_names_them() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_trainer"))
        .env_clear()
        .arg("--version")
        .output()
        .unwrap();
    let ended = Ended::from(output).succeeded();
    assert!(ended.stdout.starts_with("trainer "), "{}", ended.stdout);
}

#[test]
fn a_clusters_manifest_must_have_its_digest_and_may_have_fields_of_a_newer_operator() {
    let bench = Bench::new(2);
    let prepared = bench.run("prepare").succeeded().outcome();
    let digest = prepared["specDigest"].as_str().unwrap();
    let mut job: Value =
        serde_json::from_str(&std::fs::read_to_string(bench.job()).unwrap()).unwrap();
    job["spec"]["novelty"] = false.into();
    bench.write_job(&job);
    bench.run("train").refused(&["spec.novelty is not a field"]);
    let other = format!("sha256:{}", "0".repeat(64));
    bench
        .run_with("train", &["--spec-digest", &other])
        .refused(&[digest, &other, "spec.novelty"]);
    let trained = bench
        .run_with("train", &["--spec-digest", digest])
        .succeeded();
    assert!(
        trained.stderr.contains("does not know spec.novelty")
            && trained.stderr.contains("older than the operator"),
        "{}",
        trained.stderr
    );
}

#[test]
fn a_clusters_manifest_of_another_job_writes_nothing_to_that_jobs_folder() {
    let bench = Bench::new(2);
    let of_another = [
        "--job-namespace",
        "team-a",
        "--job-name",
        "tiny",
        "--job-uid",
        "uid-1",
    ];
    let said = bench.job().with_file_name("said.json");
    for command in ["prepare", "train"] {
        let words = [
            "metadata.namespace is `default`, but --job-namespace is `team-a`",
            "but --job-uid is `uid-1`",
        ];
        let mut trainer = bench.command(command);
        trainer.args(of_another);
        trainer.arg("--termination-message").arg(&said);
        Ended::from(trainer.output().unwrap()).refused(&words);
        // The operator takes the words for those of the job that it asked for.
        let outcome: Value =
            serde_json::from_str(&std::fs::read_to_string(&said).unwrap()).unwrap();
        assert_eq!(outcome["uid"], "uid-1");
        assert!(outcome["message"].as_str().unwrap().contains(words[0]));
    }
    assert!(!bench.work().exists());
}

#[test]
fn progress_and_metrics_are_served_while_it_trains() {
    let bench = Bench::new(100_000);
    let mut trainer = bench
        .command("train")
        .args(["--listen", "127.0.0.1:0"])
        .spawn()
        .unwrap();
    let mut log = BufReader::new(trainer.stderr.take().unwrap()).lines();
    let address = log
        .find_map(|line| {
            let line = line.unwrap();
            let (_, rest) = line.split_once("progress at http://")?;
            Some(rest.trim_end_matches("/progress").to_owned())
        })
        .unwrap();
    log.find(|line| line.as_ref().unwrap().contains("validation loss"))
        .unwrap()
        .unwrap();

    let progress: Value = serde_json::from_str(&get(&address, "/progress")).unwrap();
    assert!(progress["step"].as_u64() >= Some(10), "{progress}");
    assert_eq!(
        (&progress["phase"], &progress["totalSteps"]),
        (&"Training".into(), &100_000.into())
    );
    assert!(
        progress["peakMemoryBytes"].as_u64() > Some(0) && progress["etaSeconds"].as_u64() > Some(0),
        "{progress}"
    );

    let metrics = get(&address, "/metrics");
    for name in [
        "finetune_training_step",
        "finetune_training_loss",
        "finetune_validation_loss",
        "finetune_learning_rate",
        "finetune_gradient_norm",
        "finetune_tokens_total",
        "finetune_step_seconds_count",
        "finetune_peak_memory_bytes",
    ] {
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(
            value.is_some_and(|value| value > 0.0),
            "{name} is {value:?}"
        );
    }
    assert_eq!(get(&address, "/livez"), "ok");
    trainer.kill().unwrap();
    trainer.wait().unwrap();
}

/// The body of an answer over HTTP.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("200 OK"), "{head}");
    body.to_owned()
}

fn losses(bench: &Bench) -> Vec<f64> {
    bench
        .read("metrics.jsonl")
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["loss"]
                .as_f64()
                .unwrap()
        })
        .collect()
}
