//! The further settings of LoRA through the trainer's binary: what is random is the same after a resume, and an adapter
//! can be gone on from.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::{Bench, rows};

fn losses(bench: &Bench) -> Vec<f64> {
    let rows = bench.read("metrics.jsonl");
    let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
    rows.lines().map(|line| loss(line).unwrap()).collect()
}

/// A job of `steps` steps with this method.
fn with_method(base: &str, steps: usize, method: &Value) -> Bench {
    Bench::with(base, |job| {
        job["spec"]["method"] = method.clone();
        job["spec"]["training"]["maxSteps"] = steps.into();
    })
}

fn evaluated(bench: &Bench, arguments: &[&str]) -> f64 {
    bench.run_with("evaluate", arguments).succeeded();
    bench.read_json("evaluation.json")["loss"].as_f64().unwrap()
}

#[test]
fn dora_dropout_and_noise_are_the_same_after_a_resume_to_the_bit() {
    let random = |job: &mut Value| {
        job["spec"]["method"] = json!({ "qlora": {
            "rank": 4, "alpha": 8, "useDora": true, "useRslora": true, "dropout": 0.1,
            "rankPattern": { "q_proj": 2 }, "alphaPattern": { "mlp.*": 4 },
        } });
        job["spec"]["training"]["maxSteps"] = 60.into();
        job["spec"]["training"]["neftuneNoiseAlpha"] = 5.into();
    };
    let whole = Bench::with("tiny-llama-64", random);
    let expected = whole.run("train").succeeded().outcome();
    let learnt = losses(&whole);
    assert!(learnt[59] < 0.8 * learnt[0], "{learnt:?}");

    let torn = Bench::with("tiny-llama-64", random);
    torn.copy_job_of(&whole);
    let mut trainer = torn.spawn("train");
    let deadline = Instant::now() + Duration::from_mins(10);
    while torn.checkpoints() == 0 {
        assert!(
            trainer.try_wait().unwrap().is_none() && Instant::now() < deadline,
            "no sign of a checkpoint"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    trainer.kill().unwrap();
    trainer.wait().unwrap();
    let resumed = torn.run("train").succeeded();
    assert!(
        resumed.stderr.contains("resumed after step"),
        "{}",
        resumed.stderr
    );
    assert_eq!(torn.read("metrics.jsonl"), whole.read("metrics.jsonl"));
    assert_eq!(
        resumed.outcome()["adapter"]["digest"],
        expected["adapter"]["digest"]
    );
}

#[test]
fn dropout_and_noise_change_training_and_not_evaluation() {
    let plain = with_method(
        "tiny-llama",
        3,
        &json!({ "lora": { "rank": 4, "alpha": 8 } }),
    );
    plain.run("train").succeeded();
    let dropout = json!({ "lora": { "rank": 4, "alpha": 8, "dropout": 0.5 } });
    let dropped = with_method("tiny-llama", 3, &dropout);
    dropped.run("train").succeeded();
    let noisy = Bench::with("tiny-llama", |job| {
        job["spec"]["training"]["maxSteps"] = 3.into();
        job["spec"]["training"]["neftuneNoiseAlpha"] = 15.into();
    });
    noisy.run("train").succeeded();
    // B is zero at first, so dropout shows from the second step on; noise at once.
    let (plain_losses, dropped_losses) = (losses(&plain), losses(&dropped));
    assert!((plain_losses[0] / dropped_losses[0] - 1.0).abs() < 1e-9);
    assert!((plain_losses[2] / dropped_losses[2] - 1.0).abs() > 1e-6);
    assert!((plain_losses[0] / losses(&noisy)[0] - 1.0).abs() > 1e-6);

    // The loss that the run reports of its validation rows is that of the published adapter.
    for bench in [&dropped, &noisy] {
        let [version] = bench.versions().try_into().unwrap();
        let version = version.display().to_string();
        let again = evaluated(bench, &["--adapter", &version, "--rows", "validation"]);
        let last = bench.read("metrics.jsonl");
        let last: Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
        let said = last["validationLoss"].as_f64().unwrap();
        assert!((again / said - 1.0).abs() < 1e-6, "{again} and {said}");
    }
}

#[test]
fn training_goes_on_from_an_initial_adapter_and_evaluate_looks_at_it() {
    let method = json!({ "lora": { "rank": 4, "alpha": 8, "useDora": true } });
    let first = with_method("tiny-llama", 30, &method);
    first.run("train").succeeded();
    let [version] = first.versions().try_into().unwrap();
    let uri = format!("file://{}/", version.display());

    let second = Bench::with("tiny-llama", |job| {
        job["spec"]["method"] = method.clone();
        job["spec"]["training"]["maxSteps"] = 10.into();
        job["spec"]["initialAdapter"] = json!({ "uri": uri });
    });
    let start = evaluated(&second, &[]);
    let adapter = version.display().to_string();
    assert!((start / evaluated(&second, &["--adapter", &adapter]) - 1.0).abs() < 1e-12);
    let fresh = evaluated(&with_method("tiny-llama", 30, &method), &[]);
    assert!(start < 0.7 * fresh, "{start}, without the adapter {fresh}");

    second.run("train").succeeded();
    let losses = losses(&second);
    assert!(losses[0] < 0.7 * fresh, "{losses:?}, fresh {fresh}");
    let [next] = second.versions().try_into().unwrap();
    let card = std::fs::read_to_string(next.join("README.md")).unwrap();
    assert!(
        card.contains(&format!("| Went on from | `{uri}` |")),
        "{card}"
    );
}

#[test]
fn an_initial_adapter_that_is_another_one_is_refused_before_training() {
    let first = with_method(
        "tiny-llama",
        1,
        &json!({ "lora": { "rank": 4, "alpha": 8 } }),
    );
    first.run("train").succeeded();
    let [version] = first.versions().try_into().unwrap();
    let uri = format!("file://{}/", version.display());
    for (base, method, words) in [
        (
            "tiny-llama",
            json!({ "lora": { "rank": 8, "alpha": 16 } }),
            [
                "has rank 4, but the method says 8",
                "spec.initialAdapter.uri",
            ],
        ),
        (
            "tiny-llama",
            json!({ "qlora": { "rank": 4, "alpha": 16 } }),
            ["is scaled by 2, but", "`useRslora`"],
        ),
        (
            "tiny-llama-64",
            json!({ "lora": { "rank": 4, "alpha": 8 } }),
            ["spec.initialAdapter.uri", "lora_A.weight"],
        ),
        (
            "tiny-llama",
            json!({ "full": {} }),
            ["spec.initialAdapter", "method full"],
        ),
    ] {
        let second = Bench::with(base, |job| {
            job["spec"]["method"] = method.clone();
            job["spec"]["initialAdapter"] = json!({ "uri": uri });
        });
        second.run("prepare").refused(&words);
    }
    let absent = Bench::with("tiny-llama", |job| {
        job["spec"]["initialAdapter"] = json!({ "uri": format!("{uri}nowhere/") });
    });
    absent.run("prepare").refused(&["nowhere"]);
}

/// Two answers to each question, as texts and as messages in turn.
fn preferences(count: usize) -> Vec<String> {
    let said = |role: &str, content: String| json!([{ "role": role, "content": content }]);
    let row = |index: usize| {
        let (prompt, chosen, rejected) = (
            format!("is {index} good?"),
            format!("yes, {index}"),
            format!("no, not {index}"),
        );
        match index % 2 {
            0 => json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected }),
            _ => json!({
                "prompt": said("user", prompt),
                "chosen": said("assistant", chosen),
                "rejected": said("assistant", rejected),
            }),
        }
        .to_string()
    };
    (0..count).map(row).collect()
}

/// A job of `steps` steps that learns from preferences.
fn with_preferences(steps: usize, change: impl Fn(&mut Value)) -> Bench {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["objective"] = json!({ "dpo": { "beta": 0.3 } });
        let training = job["spec"]["training"].as_object_mut().unwrap();
        training.remove("microBatchSize");
        training.insert("maxSteps".to_owned(), steps.into());
        change(job);
    });
    bench.write_data(&preferences(40));
    bench
}

const LN_2: f64 = std::f64::consts::LN_2;

#[test]
fn preferences_are_learnt_from_pairs_and_the_loss_starts_at_ln_2() {
    let bench = with_preferences(24, |_| {});
    assert!((evaluated(&bench, &[]) - LN_2).abs() < 1e-9);
    bench.run("train").succeeded();
    let learnt = losses(&bench);
    assert!((learnt[0] - LN_2).abs() < 1e-6, "{learnt:?}");
    assert!(learnt[23] < 0.5 * LN_2, "{learnt:?}");
    let report = bench.read_json("dataset-report.json");
    let number = |key: &str| report["dataset"][key].as_u64().unwrap();
    assert_eq!(report["dataset"]["format"], "Preference");
    assert_eq!(number("rows") + number("validationRows"), 40);

    let [version] = bench.versions().try_into().unwrap();
    let version = version.display().to_string();
    let again = evaluated(&bench, &["--adapter", &version, "--rows", "validation"]);
    let last = bench.read("metrics.jsonl");
    let last: Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    let said = last["validationLoss"].as_f64().unwrap();
    assert!((again / said - 1.0).abs() < 1e-6, "{again} and {said}");
}

#[test]
fn preferences_are_measured_against_the_initial_adapter() {
    let first = with_method(
        "tiny-llama",
        10,
        &json!({ "lora": { "rank": 4, "alpha": 8 } }),
    );
    first.run("train").succeeded();
    let [version] = first.versions().try_into().unwrap();
    let uri = format!("file://{}/", version.display());
    let second = with_preferences(2, |job| {
        job["spec"]["initialAdapter"] = json!({ "uri": uri });
    });
    second.run("train").succeeded();
    let learnt = losses(&second);
    assert!((learnt[0] - LN_2).abs() < 1e-6, "{learnt:?}");
}

#[test]
fn rows_and_objectives_that_do_not_fit_are_refused() {
    let conversations = with_preferences(2, |_| {});
    conversations.write_data(&rows(8));
    conversations
        .run("prepare")
        .refused(&["objective is dpo", "the rows are Messages"]);

    let fine_tuned = Bench::new(2);
    fine_tuned.write_data(&preferences(8));
    fine_tuned
        .run("prepare")
        .refused(&["the rows are Preference", "objective: { dpo: {} }"]);

    let long = with_preferences(2, |_| {});
    let two = json!([
        { "role": "assistant", "content": "a" },
        { "role": "user", "content": "b" },
    ]);
    let prompt = json!([{ "role": "user", "content": "a" }]);
    let row = json!({ "prompt": prompt, "chosen": two, "rejected": two }).to_string();
    long.write_data(&[row]);
    long.run("prepare").refused(&[
        "line 1",
        "`chosen` has 2 messages, expected one, of the assistant",
    ]);

    let passes = with_preferences(2, |job| {
        job["spec"]["training"]["microBatchSize"] = 2.into();
    });
    passes
        .run("prepare")
        .refused(&["spec.training.microBatchSize is set with objective dpo"]);
}
