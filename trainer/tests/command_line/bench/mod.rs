//! What the tests of the command line share: a job on a tiny model in a folder of its own, and the real binary.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use serde_json::Value;

/// A job by hand: base, data and manifest as files.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    /// A job of `steps` steps on a tiny Llama, with a checkpoint every 5.
    pub(crate) fn new(steps: usize) -> Self {
        Self::with("tiny-llama", |job| {
            job["spec"]["training"]["maxSteps"] = steps.into();
        })
    }

    /// The same on another base of the fixtures, with changes to the manifest.
    pub(crate) fn with(base: &str, change: impl Fn(&mut Value)) -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        bench.write_data(&rows(40));
        let mut job = serde_json::json!({
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": { "name": "tiny" },
            "spec": {
                "baseModel": { "uri": format!("file://{}/", fixture(base).display()) },
                "dataset": {
                    "train": [{ "uri": format!("file://{}", bench.data().display()) }],
                    "validation": { "fraction": 0.2, "everySteps": 10 },
                    "maxSequenceLength": 96,
                },
                "method": { "lora": { "rank": 4, "alpha": 8 } },
                "training": { "batchSize": 4, "microBatchSize": 2, "learningRate": 0.01, "computeType": "Float32" },
                "checkpoint": { "everySteps": 5 },
            },
        });
        change(&mut job);
        bench.write_job(&job);
        bench
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("train.jsonl")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub(crate) fn job(&self) -> PathBuf {
        self.folder.path().join("job.yaml")
    }

    pub(crate) fn write_data(&self, rows: &[String]) {
        std::fs::write(self.data(), rows.join("\n") + "\n").unwrap();
    }

    /// JSON is YAML.
    pub(crate) fn write_job(&self, job: &Value) {
        std::fs::write(self.job(), serde_json::to_string_pretty(job).unwrap()).unwrap();
    }

    /// Takes over the manifest of another bench, and with it its data.
    pub(crate) fn copy_job_of(&self, other: &Self) {
        std::fs::copy(other.job(), self.job()).unwrap();
    }

    /// How many complete checkpoints there are.
    pub(crate) fn checkpoints(&self) -> usize {
        self.complete_checkpoints().len()
    }

    /// The folders of all complete checkpoints, the newest last.
    pub(crate) fn complete_checkpoints(&self) -> Vec<PathBuf> {
        let Ok(attempts) = std::fs::read_dir(self.work().join("scratch/attempts")) else {
            return Vec::new();
        };
        let mut folders: Vec<PathBuf> = attempts
            .filter_map(|attempt| std::fs::read_dir(attempt.ok()?.path().join("checkpoints")).ok())
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|folder| folder.join("manifest.json").exists())
            .collect();
        folders.sort_by_key(|folder| folder.file_name().map(std::ffi::OsStr::to_owned));
        folders
    }

    /// A command of the trainer on this job.
    pub(crate) fn command(&self, name: &str) -> Command {
        self.command_in(name, &self.work().display().to_string())
    }

    /// The same with another `--work`.
    pub(crate) fn command_in(&self, name: &str, work: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
        command
            .arg(name)
            .arg("--file")
            .arg(self.job())
            .arg("--work")
            .arg(work)
            .arg("--cache")
            .arg(self.folder.path().join("cache"))
            .args(["--threads", &threads()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, name: &str) -> Ended {
        self.run_with(name, &[])
    }

    pub(crate) fn run_with(&self, name: &str, arguments: &[&str]) -> Ended {
        Ended::from(self.command(name).args(arguments).output().unwrap())
    }

    pub(crate) fn spawn(&self, name: &str) -> Child {
        self.command(name)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// A trainer that writes a line before each pass over a micro-batch, started and read up to a line that has `text`. It is held
    /// up there: nobody reads on, and the pipe takes about 700 such lines.
    #[track_caller]
    pub(crate) fn hold_at(&self, name: &str, arguments: &[&str], text: &str) -> Held {
        let mut child = self
            .command(name)
            .args(arguments)
            .env("RUST_LOG", "info,trainer::objective=debug")
            .env("FINETUNE_LOG_FORMAT", "json")
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut read, mut line) = (String::new(), String::new());
        while !line.contains(text) {
            line.clear();
            let more = log.read_line(&mut line).unwrap();
            read.push_str(&line);
            assert!(more > 0, "it ended without `{text}`: {read}");
        }
        Held { child, log, read }
    }

    pub(crate) fn read(&self, path: &str) -> String {
        let path = self.work().join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn read_json(&self, path: &str) -> Value {
        serde_json::from_str(&self.read(path)).unwrap()
    }

    /// The folders of published versions of the adapter.
    pub(crate) fn versions(&self) -> Vec<PathBuf> {
        let folder = self.work().join("output/default/tiny");
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("manifest.json").exists())
            .collect()
    }
}

/// A process that is held up in the middle of a step, with what it has said.
pub(crate) struct Held {
    child: Child,
    log: BufReader<ChildStderr>,
    read: String,
}

impl Held {
    /// Sends `signal`, such as `TERM`, and lets it go on to its end.
    pub(crate) fn send(mut self, signal: &str) -> Ended {
        send(self.child.id(), signal);
        self.log.read_to_string(&mut self.read).unwrap();
        let output = self.child.wait_with_output().unwrap();
        Ended {
            stderr: self.read,
            ..Ended::from(output)
        }
    }
}

/// Sends a signal to a process.
pub(crate) fn send(process: u32, signal: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{signal}"), &process.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// How many threads compute: one, or as many as `tests/processors.sh` asks for.
fn threads() -> String {
    std::env::var("FINETUNE_TEST_THREADS").unwrap_or_else(|_| "1".to_owned())
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// The outcome on standard output.
    #[track_caller]
    pub(crate) fn outcome(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub(crate) fn refused(self, words: &[&str]) {
        assert_eq!(self.code, Some(10), "{}", self.stderr);
        for word in words {
            assert!(
                self.stderr.contains(word),
                "`{word}` is not in: {}",
                self.stderr
            );
        }
    }
}

/// Questions and answers.
pub(crate) fn rows(count: usize) -> Vec<String> {
    (0..count)
        .map(|index| {
            serde_json::json!({ "messages": [
                { "role": "user", "content": format!("what is {index}?") },
                { "role": "assistant", "content": format!("{index} and {}", index * 7 % 11) },
            ]})
            .to_string()
        })
        .collect()
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}
