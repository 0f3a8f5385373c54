//! The tokenizer of a Hugging Face directory: `tokenizer.json` or `tokenizer.model`, `tokenizer_config.json`, and the template
//! in `chat_template.jinja` or in the configuration.

use std::path::Path;

use serde_json::{Map, Value};

use super::folder::{CONFIG, object, read, token_text};
use super::guard::guarded;
use super::{Error, Parts, SpecialToken, SpecialTokens, Tokenizer, sentence_piece_folder};

const TOKENIZER: &str = "tokenizer.json";
const TEMPLATE: &str = "chat_template.jinja";
const GENERATION: &str = "generation_config.json";

impl Tokenizer {
    /// Reads the tokenizer of the model in `directory`: `tokenizer.json`, or where there is none `tokenizer.model`.
    pub fn from_directory(directory: &Path) -> Result<Self, Error> {
        let config = object(directory, CONFIG)?.unwrap_or_default();
        let (json, config, origin) = match read(directory, TOKENIZER)? {
            Some(json) => (json, config, TOKENIZER),
            None => {
                let (json, config) = sentence_piece_folder::read(directory, config)?;
                (json, config, sentence_piece_folder::MODEL)
            }
        };
        let vocabulary = guarded(origin, || tokenizers::Tokenizer::from_bytes(&json))?
            .map_err(|error| Error::invalid(origin, error.to_string()))?;
        let template = match read(directory, TEMPLATE)? {
            Some(bytes) => Some(String::from_utf8(bytes).map_err(|_| {
                Error::invalid(TEMPLATE, "it is not UTF-8, expected a Jinja template")
            })?),
            None => configured_template(&config)?,
        };
        let token = |name| special_token(&config, &vocabulary, name, origin);
        let special = SpecialTokens {
            bos: token("bos_token")?,
            eos: token("eos_token")?,
            unk: token("unk_token")?,
            pad: token("pad_token")?,
        };
        Self::new(Parts {
            json,
            special,
            adds_bos: config.get("add_bos_token").and_then(Value::as_bool),
            stop_ids: stop_ids(directory)?,
            template,
            origin: origin.to_owned(),
        })
    }
}

/// The template in the configuration: a text, or a list of named ones of which `default` counts.
fn configured_template(config: &Map<String, Value>) -> Result<Option<String>, Error> {
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(list)) => Ok(list
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template"))
            .and_then(Value::as_str)
            .map(str::to_owned)),
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => Err(Error::invalid(
            CONFIG,
            "`chat_template` is neither text nor a list of named templates",
        )),
    }
}

/// A special token: a text, or an object with its text as `content`.
fn special_token(
    config: &Map<String, Value>,
    vocabulary: &tokenizers::Tokenizer,
    name: &str,
    origin: &str,
) -> Result<Option<SpecialToken>, Error> {
    let Some(text) = token_text(config, name)? else {
        return Ok(None);
    };
    let id = vocabulary.token_to_id(text).ok_or_else(|| {
        Error::invalid(
            CONFIG,
            format!("`{name}` is `{text}`, which {origin} does not have"),
        )
    })?;
    Ok(Some(SpecialToken {
        id,
        text: text.to_owned(),
    }))
}

/// `eos_token_id` of the generation settings: a number or a list.
fn stop_ids(directory: &Path) -> Result<Vec<u32>, Error> {
    let Some(generation) = object(directory, GENERATION)? else {
        return Ok(Vec::new());
    };
    let one = |value: &Value| {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| {
                Error::invalid(
                    GENERATION,
                    format!("`eos_token_id` holds {value}, expected an id"),
                )
            })
    };
    match generation.get("eos_token_id") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(one).collect(),
        Some(value) => one(value).map(|id| vec![id]),
    }
}
