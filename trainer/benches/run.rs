//! Whole runs of `trainer train` on the model that `FINETUNE_MODEL` names: how long until the first step, how fast the steps after it
//! are, how much memory at most, and how long from the last step to a published adapter.
//!
//! `make bench` runs it behind the steps of `finetune-numerics`; words given to it must be in a line's name. The rows are texts of
//! words drawn at random, of 256 tokens each.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark measures time, prints, and ends at the first fault"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Steps of a run. The second is the first that counts for the speed.
const STEPS: u32 = 8;
/// Rows a step, and tokens of each.
const ROWS: usize = 2;
const TOKENS: usize = 256;

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let Some(model) = std::env::var_os("FINETUNE_MODEL") else {
        println!("FINETUNE_MODEL names no model: no whole runs");
        return;
    };
    println!(
        "{:<32} {:>13} {:>9} {:>13} {:>19}",
        "trainer train", "to first step", "tokens/s", "greatest RSS", "last step to result"
    );
    for kind in ["BFloat16", "Float32"] {
        for method in ["lora", "qlora"] {
            let name = format!("{method} {kind} {ROWS}x{TOKENS}");
            let is_wanted = |word: &String| name.to_lowercase().contains(&word.to_lowercase());
            if wanted.iter().all(is_wanted) {
                run(&name, Path::new(&model), kind, method);
            }
        }
    }
}

/// Makes one run, and prints its line.
fn run(name: &str, model: &Path, kind: &str, method: &str) {
    let folder = tempfile::tempdir().unwrap();
    let place = |file: &str| folder.path().join(file);
    std::fs::write(place("rows.jsonl"), rows()).unwrap();
    let job = serde_json::json!({
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": { "name": "bench" },
        "spec": {
            "baseModel": { "uri": format!("file://{}", model.display()) },
            "dataset": {
                "train": [{ "uri": format!("file://{}", place("rows.jsonl").display()) }],
                "format": "Text",
                "maxSequenceLength": TOKENS,
                "packing": false,
            },
            "method": { method: {} },
            "training": { "batchSize": ROWS, "maxSteps": STEPS, "computeType": kind },
            "checkpoint": { "everySteps": 1_000_000 },
        },
    });
    std::fs::write(place("job.yaml"), job.to_string()).unwrap();
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(["train", "--file"])
        .arg(place("job.yaml"))
        .arg("--work")
        .arg(place("work"))
        .arg("--cache")
        .arg(place("cache"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let Seen { lines, most } = watch(&mut child, began);
    let at = |part: &str| {
        let line = lines.iter().find(|(_, line)| line.contains(part));
        assert!(line.is_some(), "the trainer never said `{part}`: {lines:?}");
        line.unwrap().0.as_secs_f64()
    };
    let (first, last) = (at("step 1 of"), at(&format!("step {STEPS} of")));
    let tokens = (ROWS * TOKENS) as f64 * f64::from(STEPS - 1);
    println!(
        "{name:<32} {:>12.1}s {:>9.0} {:>9} MiB {:>18.1}s",
        first,
        tokens / (last - first),
        most >> 10,
        at("published") - last,
    );
}

/// What was seen of a run.
struct Seen {
    /// What it said, and when.
    lines: Vec<(Duration, String)>,
    /// `VmHWM`, in KiB.
    most: u64,
}

fn watch(child: &mut Child, began: Instant) -> Seen {
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (send, receive) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in stderr.lines() {
            send.send((began.elapsed(), line.unwrap())).unwrap();
        }
    });
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(greatest_resident(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(20));
    }
    reader.join().unwrap();
    let lines: Vec<_> = receive.iter().collect();
    assert!(child.wait().unwrap().success(), "{lines:?}");
    Seen { lines, most }
}

fn greatest_resident(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Texts of more than [`TOKENS`] tokens.
fn rows() -> String {
    const WORDS: [&str; 16] = [
        "the", "of", "to", "in", "is", "on", "with", "for", "as", "by", "from", "this", "that",
        "it", "was", "are",
    ];
    let mut state = 1_u64;
    let mut word = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        WORDS[(state >> 60) as usize]
    };
    (0..ROWS * 8)
        .map(|_| {
            let text: Vec<&str> = (0..2 * TOKENS).map(|_| word()).collect();
            serde_json::json!({ "text": text.join(" ") }).to_string() + "\n"
        })
        .collect()
}
