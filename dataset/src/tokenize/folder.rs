//! The files of a Hugging Face directory that say what a tokenizer is like, and how they write the tokens with a role.

use std::path::Path;

use serde_json::{Map, Value};

use super::Error;

/// The file with what the tokenizer is like beside its vocabulary.
pub(super) const CONFIG: &str = "tokenizer_config.json";

/// The bytes of a file, or none where it does not exist.
pub(super) fn read(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(directory.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            file: directory.join(name).display().to_string(),
            source,
        }),
    }
}

pub(super) fn object(directory: &Path, name: &str) -> Result<Option<Map<String, Value>>, Error> {
    read(directory, name)?
        .map(|bytes| {
            serde_json::from_slice(&bytes).map_err(|error| Error::invalid(name, error.to_string()))
        })
        .transpose()
}

/// The text of a special token, where the configuration has it.
pub(super) fn token_text<'a>(
    config: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a str>, Error> {
    match config.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_str()
            .or_else(|| value.get("content").and_then(Value::as_str))
            .map(Some)
            .ok_or_else(|| Error::invalid(CONFIG, format!("`{name}` is no text"))),
    }
}
