//! The binary itself: what it prints, and how it ends.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::fixture;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_the_process_with_0() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(["serve", "--port", "0", "--model"])
        .arg(fixture("tiny-llama"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let url = lines
        .find_map(|line| {
            Some(
                line.ok()?
                    .split_once("serving tiny-llama on ")?
                    .1
                    .to_owned(),
            )
        })
        .unwrap();
    let health = reqwest::get(format!("{url}/health")).await.unwrap();
    assert_eq!(health.status(), reqwest::StatusCode::OK);

    let pid = process.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let deadline = Instant::now() + Duration::from_mins(5);
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the process ignores SIGTERM");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_base_that_is_not_there_ends_the_process_with_10() {
    let process = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(["serve", "--model", "/nowhere/model.gguf"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&process.stderr);
    assert_eq!(process.status.code(), Some(10), "{said}");
    assert!(said.contains("--model /nowhere/model.gguf"), "{said}");
}
