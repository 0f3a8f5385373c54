//! `config.json` of a Hugging Face directory to the shape of a model.
//!
//! Every key is either read, or known to change nothing, or refused: a key that is passed over could be the one that
//! changes the mathematics. One file a family; all of them are listed in `family.rs`.

mod family;
mod gemma;
mod granite;
mod keys;
mod llama;
mod olmo2;
mod phi3;
mod qwen;
mod rope;
mod shape;

use std::path::Path;

use finetune_numerics::architecture::ModelConfig;
use serde_json::{Map, Value};

use self::keys::Keys;
use super::Error;

pub use self::family::{FAMILIES, Family, LlamaCpp};

const CONFIG: &str = "config.json";

/// Reads the configuration of the model in `folder`.
pub(super) fn read(folder: &Path) -> Result<ModelConfig, Error> {
    let path = folder.join(CONFIG);
    let bytes = std::fs::read(&path).map_err(|error| {
        Error::invalid(
            path.display().to_string(),
            format!(
                "{error}; expected a Hugging Face directory with config.json, or one .gguf file"
            ),
        )
    })?;
    let mut keys: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(path.display().to_string(), error.to_string()))?;
    // Read on its own: it says how weights lie in the files, not what model they make.
    keys.remove(super::quantization::KEY);
    parse(keys)
}

fn parse(keys: Map<String, Value>) -> Result<ModelConfig, Error> {
    let mut keys = Keys::new(keys);
    let found = keys.take("architectures").unwrap_or(Value::Null);
    let named = match found.as_array().map(Vec::as_slice) {
        Some([Value::String(class)]) => Family::of_class(class),
        _ => None,
    };
    let Some(family) = named else {
        let names: Vec<_> = FAMILIES.iter().map(|family| family.class).collect();
        let names = names.join(", ");
        return Err(keys.fault(
            "architectures",
            format!("it is {found}, which is not supported; expected a list of one of {names}"),
        ));
    };
    let config = (family.read)(&mut keys, family.class)?;
    keys.refuse_the_rest()?;
    config
        .check()
        .map_err(|error| Error::invalid(CONFIG, error.to_string()))?;
    Ok(config)
}

#[cfg(test)]
mod tests;
