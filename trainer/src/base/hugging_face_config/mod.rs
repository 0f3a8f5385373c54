//! `config.json` of a Hugging Face directory to the shape of a model.
//!
//! Every key is either read, or known to change nothing, or refused: a key that is passed over could be the one that
//! changes the mathematics. One file a family; a family is named by the class of its checkpoints.

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

use finetune_numerics::model::ModelConfig;
use serde_json::{Map, Value};

use self::keys::Keys;
use super::Error;

const CONFIG: &str = "config.json";

/// Reads the keys of a family, all but those that no family reads.
type Read = fn(&mut Keys, &str) -> Result<ModelConfig, Error>;

/// What `architectures` may name.
static FAMILIES: [(&str, Read); 11] = [
    ("LlamaForCausalLM", llama::llama),
    ("MistralForCausalLM", llama::mistral),
    ("Qwen2ForCausalLM", qwen::qwen2),
    ("Qwen3ForCausalLM", qwen::qwen3),
    ("GemmaForCausalLM", gemma::gemma),
    ("Gemma2ForCausalLM", gemma::gemma2),
    ("Gemma3ForCausalLM", gemma::gemma3),
    ("Gemma3ForConditionalGeneration", gemma::gemma3_multimodal),
    ("Phi3ForCausalLM", phi3::phi3),
    ("Olmo2ForCausalLM", olmo2::olmo2),
    ("GraniteForCausalLM", granite::granite),
];

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
        Some([Value::String(name)]) => FAMILIES.iter().find(|(known, _)| known == name),
        _ => None,
    };
    let Some((architecture, read)) = named else {
        let names = FAMILIES.map(|(name, _)| name).join(", ");
        return Err(keys.fault(
            "architectures",
            format!("it is {found}, which is not supported; expected a list of one of {names}"),
        ));
    };
    let config = read(&mut keys, architecture)?;
    keys.refuse_the_rest()?;
    config
        .check()
        .map_err(|error| Error::invalid(CONFIG, error.to_string()))?;
    Ok(config)
}

#[cfg(test)]
mod tests;
