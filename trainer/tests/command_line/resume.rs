//! A trainer may die at any moment: the next one goes on, and the numbers are those of a run that nobody touched.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::time::{Duration, Instant};

use finetune_artifacts::manifest::Manifest;
use rand::{Rng, SeedableRng};

use crate::bench::{Bench, Ended, send};

const STEPS: usize = 120;

/// Kills the trainer at `kills` random steps of `steps`, then lets it finish. Every number of every step, written to the
/// last digit, and the result are those of the run that nobody touched.
fn kill_at_random_steps(job: impl Fn() -> Bench, steps: u64, kills: usize, result: &str) {
    let whole = job();
    let expected = whole.run("train").succeeded().outcome();
    let torn = job();
    // The same data at the same place: the digest of the result depends on both.
    torn.copy_job_of(&whole);
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let mut targets: Vec<u64> = (0..kills)
        .map(|_| random.random_range(1..steps - 5))
        .collect();
    targets.sort_unstable();
    for target in targets {
        let address = free_address();
        let mut trainer = torn
            .command("train")
            .args(["--listen", &address])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait_until(&mut trainer, &format!("step {target}"), || {
            step_of(&address).is_some_and(|step| step >= target)
        });
        trainer.kill().unwrap(); // SIGKILL
        trainer.wait().unwrap();
    }
    let ended = torn.run("train").succeeded();
    assert_eq!(torn.read("metrics.jsonl"), whole.read("metrics.jsonl"));
    assert_eq!(torn.read("metrics.csv"), whole.read("metrics.csv"));
    assert_eq!(
        ended.outcome()[result]["digest"],
        expected[result]["digest"]
    );
    assert_eq!(ended.outcome()["attempt"], kills + 1);
}

/// An address on which nothing listens.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The step that the trainer says it has done; none while it does not answer.
fn step_of(address: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET /progress HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str::<serde_json::Value>(body).ok()?["step"].as_u64()
}

#[test]
fn killed_at_twenty_random_steps_every_loss_equals_the_uninterrupted_runs_to_the_bit() {
    kill_at_random_steps(|| Bench::new(400), 400, 20, "adapter");
}

#[test]
fn eight_bit_state_packed_rows_and_the_best_weights_survive_kills_too() {
    let job = || {
        Bench::with("tiny-llama-64", |job| {
            let spec = &mut job["spec"];
            spec["method"] = serde_json::json!({ "full": {} });
            spec["training"]["optimizer"] = "AdamW8bit".into();
            spec["training"]["learningRate"] = 0.002.into();
            spec["training"]["batchSize"] = 2.into();
            spec["training"]["maxSteps"] = 200.into();
            spec["training"]["earlyStopping"] = serde_json::json!({ "patience": 100 });
            spec["dataset"]["packing"] = true.into();
        })
    };
    kill_at_random_steps(job, 200, 6, "model");
}

#[test]
fn told_to_stop_it_saves_and_exits_as_preempted_and_goes_on_when_started_again() {
    let whole = Bench::new(STEPS);
    let expected = whole.run("train").succeeded().outcome();
    let torn = Bench::with("tiny-llama", |job| {
        job["spec"]["training"]["maxSteps"] = STEPS.into();
    });
    torn.copy_job_of(&whole);
    let message = torn.work().with_extension("message");

    let mut trainer = torn
        .command("train")
        .arg("--termination-message")
        .arg(&message)
        .spawn()
        .unwrap();
    wait_until(&mut trainer, "the first checkpoint", || {
        torn.checkpoints() > 0
    });
    send(trainer.id(), "TERM");
    let ended = Ended::from(trainer.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(11), "{}", ended.stderr);
    let outcome: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(message).unwrap()).unwrap();
    assert_eq!(outcome["reason"], "Preempted");
    let step = outcome["progress"]["step"].as_u64().unwrap();
    assert_eq!(
        outcome["progress"]["checkpointStep"], step,
        "the checkpoint is that of the last step"
    );

    let resumed = torn.run("train").succeeded();
    assert!(
        resumed
            .stderr
            .contains(&format!("resumed after step {step}")),
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
fn killed_between_upload_and_outcome_the_result_is_found() {
    // The window is short: where the process was faster, another run is tried, as often as it takes.
    let deadline = Instant::now() + Duration::from_mins(10);
    while Instant::now() < deadline {
        let bench = Bench::new(3);
        let mut trainer = bench.spawn("train");
        while bench.versions().is_empty() {
            assert!(Instant::now() < deadline, "nothing was published");
        }
        trainer.kill().unwrap();
        trainer.wait().unwrap();
        if bench.work().join("outcome.json").exists() {
            continue;
        }
        let [published] = bench.versions().try_into().unwrap();
        let outcome = bench.run("train").succeeded().outcome();
        assert_eq!(bench.versions(), [published], "nothing was published twice");
        assert_eq!(outcome["attempt"], 2);
        return;
    }
    panic!("the process was never killed between upload and outcome");
}

#[test]
fn a_run_goes_on_in_the_type_in_which_it_was_begun_on_another_machine() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["training"]["maxSteps"] = STEPS.into();
        job["spec"]["training"]["computeType"] = "Auto".into();
    });
    let mut trainer = bench.spawn("train");
    wait_until(&mut trainer, "the first checkpoint", || {
        bench.checkpoints() > 0
    });
    trainer.kill().unwrap();
    trainer.wait().unwrap();
    let mut begun_in = "";
    for folder in bench.complete_checkpoints() {
        let path = folder.join("state.json");
        let state = std::fs::read_to_string(&path).unwrap();
        let (here, there) = match state.contains("\"Float32\"") {
            true => ("\"Float32\"", "\"BFloat16\""),
            false => ("\"BFloat16\"", "\"Float32\""),
        };
        assert!(state.contains(here), "{state}");
        std::fs::write(path, state.replace(here, there)).unwrap();
        std::fs::remove_file(folder.join("manifest.json")).unwrap();
        let manifest = Manifest::of_folder(&folder).unwrap();
        std::fs::write(folder.join("manifest.json"), manifest.to_bytes()).unwrap();
        begun_in = there.trim_matches('"');
    }
    let ended = bench.run("train").succeeded();
    assert!(
        ended
            .stderr
            .contains(&format!("the run was begun in {}", begun_in.to_lowercase())),
        "{}",
        ended.stderr
    );
    assert_eq!(bench.read_json("plan.json")["computeType"], begun_in);
    let [version] = bench.versions().try_into().unwrap();
    let golden = std::fs::read_to_string(version.join("golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    assert_eq!(golden["dtype"], begun_in.to_lowercase());
}

#[test]
fn a_newer_claim_stops_the_older_run_before_it_completes_anything() {
    let bench = Bench::new(100_000);
    let mut older = bench.command("train").spawn().unwrap();
    wait_until(&mut older, "the first checkpoint", || {
        bench.checkpoints() > 0
    });
    let claim = bench.work().join("scratch/attempts/000002");
    std::fs::create_dir_all(&claim).unwrap();
    std::fs::write(
        claim.join("claim.json"),
        r#"{"holder":"another pod","claimedAt":"1970-01-01T00:00:00Z"}"#,
    )
    .unwrap();
    let ended = Ended::from(older.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("another pod has claimed attempt 2"),
        "{}",
        ended.stderr
    );
    assert!(bench.versions().is_empty());
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let bench = Bench::new(100_000);
    let mut trainer = bench.spawn("train");
    wait_until(&mut trainer, "two checkpoints", || bench.checkpoints() >= 2);
    trainer.kill().unwrap();
    trainer.wait().unwrap();
    let newest = bench.complete_checkpoints().pop().unwrap();
    std::fs::write(newest.join("state.safetensors"), b"torn").unwrap();

    let mut trainer = bench.command("train").spawn().unwrap();
    let stderr = BufReader::new(trainer.stderr.take().unwrap());
    let mut said = String::new();
    for line in stderr.lines() {
        said = said + &line.unwrap() + "\n";
        if said.contains("resumed after step") {
            send(trainer.id(), "TERM");
            break;
        }
    }
    trainer.wait().unwrap();
    assert!(
        said.contains("damaged and passed over") && said.contains("resumed after step"),
        "{said}"
    );
}

/// Waits while the trainer runs; fails where it has ended without.
fn wait_until(trainer: &mut Child, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(10);
    while !condition() {
        let ended = trainer.try_wait().unwrap();
        assert!(ended.is_none() || condition(), "it ended before {what}");
        assert!(Instant::now() < deadline, "no sign of {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
