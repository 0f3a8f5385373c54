//! A trainer that is told to stop keeps what is complete and ends soon, whatever it is doing.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::bench::{Bench, Ended, rows, send};

/// A job of three long steps, each over most of `count` rows, one a pass; saved after the second.
fn long_steps(count: usize, validation: f64, validate_every: u64) -> Bench {
    let bench = Bench::with("tiny-llama", |job| {
        let spec = &mut job["spec"];
        spec["training"]["maxSteps"] = 3.into();
        spec["training"]["batchSize"] = 65536.into();
        spec["training"]["microBatchSize"] = 1.into();
        spec["training"]["earlyStopping"] = serde_json::json!({ "patience": 100 });
        spec["dataset"]["validation"] =
            serde_json::json!({ "fraction": validation, "everySteps": validate_every });
        spec["checkpoint"]["everySteps"] = 2.into();
    });
    bench.write_data(&rows(count));
    bench
}

/// Tells a trainer of `torn` to stop where it has said `line`, in or after step `step` + 1, and lets another one go on. The
/// metrics and the result are those of a run that nobody touched.
fn stop_at(whole: &Bench, torn: &Bench, line: &str, complete: u64) -> Value {
    let expected = whole.run("train").succeeded().outcome();
    torn.copy_job_of(whole);
    let message = torn.work().with_extension("message");
    let path = message.display().to_string();
    let ended = torn
        .hold_at("train", &["--termination-message", &path], line)
        .send("TERM");
    assert_eq!(ended.code, Some(11), "{}", ended.stderr);
    let outcome: Value = serde_json::from_str(&std::fs::read_to_string(message).unwrap()).unwrap();
    assert_eq!(outcome["reason"], "Preempted");
    assert_eq!(outcome["progress"]["step"], complete);
    assert_eq!(outcome["progress"]["checkpointStep"], complete);

    let resumed = torn.run("train").succeeded();
    assert!(
        resumed
            .stderr
            .contains(&format!("resumed after step {complete}")),
        "{}",
        resumed.stderr
    );
    assert_eq!(torn.read("metrics.jsonl"), whole.read("metrics.jsonl"));
    assert_eq!(torn.read("metrics.csv"), whole.read("metrics.csv"));
    assert_eq!(
        resumed.outcome()["adapter"]["digest"],
        expected["adapter"]["digest"]
    );
    outcome
}

#[test]
fn between_two_micro_batches_of_a_long_step_the_last_complete_step_is_saved() {
    let job = || long_steps(1500, 0.2, 10);
    stop_at(&job(), &job(), "step 2: pass 3 of", 1);
}

#[test]
fn within_a_validation_the_step_before_it_is_saved_and_validated_by_the_next_process() {
    let job = || long_steps(2200, 0.5, 1);
    let told = stop_at(&job(), &job(), "validation: pass 3 of", 1);
    assert!(told["progress"].get("validationLoss").is_none());
}

#[test]
fn between_two_answers_of_a_preference_it_stops_too() {
    let job = || {
        let bench = Bench::with("tiny-llama", |job| {
            let spec = &mut job["spec"];
            spec["objective"] = serde_json::json!({ "dpo": { "beta": 0.1 } });
            let training = &mut spec["training"];
            training.as_object_mut().unwrap().remove("microBatchSize");
            training["maxSteps"] = 2.into();
            training["batchSize"] = 65536.into();
            spec["dataset"]
                .as_object_mut()
                .unwrap()
                .remove("validation");
        });
        let row = |index: usize| {
            let answer =
                |text: String| serde_json::json!([{ "role": "assistant", "content": text }]);
            serde_json::json!({
                "prompt": [{ "role": "user", "content": format!("what is {index}?") }],
                "chosen": answer(format!("{index}")),
                "rejected": answer(format!("not {index}")),
            })
            .to_string()
        };
        bench.write_data(&(0..800).map(row).collect::<Vec<_>>());
        bench
    };
    stop_at(&job(), &job(), "step 2: pair 3 of", 1);
}

#[test]
fn a_run_of_six_steps_that_dies_in_the_last_one_has_a_checkpoint() {
    let bench = long_steps(800, 0.1, 10);
    let job = std::fs::read_to_string(bench.job()).unwrap();
    let mut job: Value = serde_json::from_str(&job).unwrap();
    job["spec"]["training"]["maxSteps"] = 6.into();
    // The default.
    job["spec"]["checkpoint"]["everySteps"] = 100.into();
    bench.write_job(&job);
    let ended = bench
        .hold_at("train", &[], "step 6: pass 3 of")
        .send("KILL");
    assert_eq!(ended.code, None, "{}", ended.stderr);
    let resumed = bench.run("train").succeeded();
    assert!(
        resumed.stderr.contains("resumed after step 4"),
        "{}",
        resumed.stderr
    );
}

/// A server to which one can connect and which never answers.
struct Silent {
    listener: TcpListener,
    connected: Vec<TcpStream>,
}

impl Silent {
    fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            connected: Vec::new(),
        }
    }

    /// The settings by which a trainer takes it for S3.
    fn settings(&self) -> [(&'static str, String); 5] {
        let address = self.listener.local_addr().unwrap();
        [
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", "me".into()),
            ("AWS_SECRET_ACCESS_KEY", "secret".into()),
        ]
    }

    /// Waits until somebody asks.
    fn asked(&mut self) {
        self.connected.push(self.listener.accept().unwrap().0);
    }
}

/// The same job with its data in a store that does not answer.
fn waiting_for_data() -> Bench {
    Bench::with("tiny-llama", |job| {
        job["spec"]["dataset"]["train"] = serde_json::json!([{ "uri": "s3://data/train.jsonl" }]);
    })
}

/// Starts `command`, waits until it asks the store, sends `signal`, and waits for its end.
fn stopped_while_it_waits(mut command: Command, signal: &str) -> Ended {
    let mut store = Silent::new();
    let child = command.envs(store.settings()).spawn().unwrap();
    store.asked();
    send(child.id(), signal);
    Ended::from(child.wait_with_output().unwrap())
}

#[test]
fn before_the_first_step_it_ends_at_once_and_says_so() {
    for stage in ["prepare", "train"] {
        let bench = waiting_for_data();
        let message = bench.work().with_extension("message");
        let mut command = bench.command(stage);
        command.arg("--termination-message").arg(&message);
        let ended = stopped_while_it_waits(command, "TERM");
        assert_eq!(ended.code, Some(11), "{stage}: {}", ended.stderr);
        let outcome: Value =
            serde_json::from_str(&std::fs::read_to_string(message).unwrap()).unwrap();
        assert_eq!(outcome["reason"], "Preempted");
        assert!(!outcome["uid"].as_str().unwrap().is_empty());
    }
}

#[test]
fn while_it_publishes_it_ends_at_once_and_all_steps_are_saved() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["training"]["maxSteps"] = 3.into();
        job["spec"]["output"] = serde_json::json!({ "uri": "s3://adapters" });
    });
    let ended = stopped_while_it_waits(bench.command("train"), "TERM");
    assert_eq!(ended.code, Some(11), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("after the last step"),
        "{}",
        ended.stderr
    );
    let newest = bench.complete_checkpoints().pop().unwrap();
    assert!(newest.ends_with("000000003"), "{}", newest.display());
}

#[test]
fn a_command_with_nothing_to_go_on_from_ends_as_by_the_signal() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        for name in ["evaluate", "merge"] {
            let bench = Bench::with("tiny-llama", |job| {
                job["spec"]["baseModel"]["uri"] = "s3://models/base/".into();
            });
            let mut command = bench.command(name);
            command.args(["--adapter", "file:///nowhere/"]);
            let ended = stopped_while_it_waits(command, signal);
            assert_eq!(ended.code, Some(code), "{name}: {}", ended.stderr);
        }
        let bench = Bench::with("tiny-llama", |job| {
            job["spec"]["baseModel"]["uri"] = "s3://models/base/".into();
        });
        let mut command = bench.command("generate");
        command.args(["--prompt", "w1"]);
        let ended = stopped_while_it_waits(command, signal);
        assert_eq!(ended.code, Some(code), "generate: {}", ended.stderr);
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
        command
            .args(["serve", "--model", "s3://models/base/", "--port", "0"])
            .env("XDG_CACHE_HOME", bench.work())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let ended = stopped_while_it_waits(command, signal);
        assert_eq!(ended.code, Some(code), "serve: {}", ended.stderr);
    }
}

#[test]
fn what_computes_without_a_pause_ends_too() {
    let bench = long_steps(20_000, 0.01, 10);
    let ended = bench
        .hold_at("evaluate", &[], "validation: pass 3 of")
        .send("TERM");
    assert_eq!(ended.code, Some(143), "{}", ended.stderr);
    assert!(!bench.work().join("evaluation.json").exists());
}

#[test]
fn as_the_first_process_of_a_container_prepare_obeys() {
    let namespaces = ["--pid", "--fork"];
    let allowed = Command::new("unshare")
        .args(namespaces)
        .arg("true")
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: unshare --pid is not permitted here; run as root");
        return;
    }
    let bench = waiting_for_data();
    let trainer = bench.command("prepare");
    let mut command = Command::new("unshare");
    command
        .args(namespaces)
        .arg(trainer.get_program())
        .args(trainer.get_args())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut store = Silent::new();
    let child = command.envs(store.settings()).spawn().unwrap();
    store.asked();
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let first = std::fs::read_to_string(children).unwrap();
    send(first.trim().parse().unwrap(), "TERM");
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(11), "{}", ended.stderr);
}
