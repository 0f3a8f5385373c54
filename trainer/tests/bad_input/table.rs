//! What the tables share: a case, how it is run, and how files are spoilt.

use std::fmt::Write as _;
use std::panic::catch_unwind;
use std::path::Path;

use finetune_numerics::model::{Base, LoadOptions, Storage};
use serde_json::{Map, Value};
use tch::Kind;
use trainer::base::BaseModelFiles;

use crate::bench::fixture;

/// One way in which a base is broken.
pub(crate) struct Case {
    /// What is wrong, for a person.
    pub(crate) name: &'static str,
    /// Breaks the copy of the fixture in this folder.
    pub(crate) spoil: fn(&Path),
    /// What the message must hold: the file, the place, what was expected.
    pub(crate) says: &'static [&'static str],
}

pub(crate) const fn case(
    name: &'static str,
    says: &'static [&'static str],
    spoil: fn(&Path),
) -> Case {
    Case { name, spoil, says }
}

/// Runs every case on a fresh copy of the fixture `base`: a folder, or a file, which is then called `model.gguf`.
#[track_caller]
pub(crate) fn refuse_all(base: &str, cases: &[Case]) {
    let mut faults = String::new();
    for case in cases {
        let folder = copy_of(base);
        (case.spoil)(folder.path());
        let before = listed(folder.path());
        let path = folder.path().to_owned();
        let message = match catch_unwind(move || load(&path)) {
            Ok(Err(message)) => message,
            Ok(Ok(())) => "(it was accepted)".to_owned(),
            Err(_) => "(it panicked)".to_owned(),
        };
        for word in case.says {
            if !message.contains(word) {
                let _ = writeln!(faults, "{}: `{word}` is not in: {message}", case.name);
            }
        }
        if message.starts_with('(') {
            let _ = writeln!(faults, "{}: {message}", case.name);
        }
        if listed(folder.path()) != before {
            let _ = writeln!(faults, "{}: it left something behind", case.name);
        }
    }
    assert!(faults.is_empty(), "of {} cases:\n{faults}", cases.len());
}

/// What training does with a base before its first step.
fn load(folder: &Path) -> Result<(), String> {
    let file = folder.join("model.gguf");
    let place = if file.exists() { &file } else { folder };
    let files = BaseModelFiles::open(place).map_err(|error| error.to_string())?;
    let weights = files.weights().map_err(|error| error.to_string())?;
    let options = LoadOptions {
        compute: Kind::Float,
        storage: Storage::Frozen,
    };
    Base::load(files.config(), weights.as_ref(), &options)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn listed(folder: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

pub(crate) fn copy_of(base: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture(base);
    if source.is_file() {
        std::fs::copy(&source, folder.path().join("model.gguf")).unwrap();
        return folder;
    }
    let tokenizer = fixture("tiny-llama");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer.join(name), folder.path().join(name)).unwrap();
    }
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

/// The one weight file of most fixtures.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// Changes the bytes of a file.
pub(crate) fn edit(folder: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = folder.join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Changes the keys of a JSON object in a file.
pub(crate) fn edit_json(folder: &Path, name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    edit(folder, name, |bytes| {
        let mut keys: Map<String, Value> = serde_json::from_slice(bytes).unwrap();
        change(&mut keys);
        *bytes = serde_json::to_vec(&keys).unwrap();
    });
}

/// Changes the header of a safetensors file, as text.
pub(crate) fn edit_header_text(folder: &Path, change: impl FnOnce(String) -> Vec<u8>) {
    edit(folder, WEIGHTS, |bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let text = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
        let header = change(text);
        let mut changed = (header.len() as u64).to_le_bytes().to_vec();
        changed.extend(header);
        changed.extend(&bytes[8 + length..]);
        *bytes = changed;
    });
}

/// The same by its entries.
pub(crate) fn edit_header(folder: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    edit_header_text(folder, |text| {
        let mut entries: Map<String, Value> = serde_json::from_str(&text).unwrap();
        change(&mut entries);
        serde_json::to_vec(&entries).unwrap()
    });
}

/// Writes over a tensor's first bytes.
pub(crate) fn overwrite(folder: &Path, tensor: &str, at: usize, value: &[u8]) {
    edit(folder, WEIGHTS, |bytes| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        let start = 8 + length + start + at;
        bytes[start..start + value.len()].copy_from_slice(value);
    });
}
