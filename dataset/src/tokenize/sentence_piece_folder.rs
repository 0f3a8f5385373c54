//! A Hugging Face directory whose tokenizer is `tokenizer.model` alone: which tokens are added to the model's pieces, and
//! which of them have a role.
//!
//! The files beside the model say so as transformers reads them. They must agree with the model: nothing is renamed and no
//! id is moved.

use std::collections::BTreeMap;
use std::path::Path;

use finetune_artifacts::sentence_piece::{Algorithm, Model};
use serde_json::{Map, Value};

use super::Error;
use super::folder::{CONFIG, object, token_text};
use super::sentence_piece::{AddedToken, Prefix, own_tokens, tokenizer_json};

/// The file.
pub(super) const MODEL: &str = "tokenizer.model";
const ADDED: &str = "added_tokens.json";
const SPECIAL: &str = "special_tokens_map.json";

/// The classes of transformers that treat spaces as that for Llama does.
const LLAMA: [&str; 2] = ["LlamaTokenizer", "CodeLlamaTokenizer"];
/// The roles that tokens have, in the order in which transformers adds those that are not there.
const ROLES: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];
/// Lists of more special tokens, by their older and their newer name.
const MORE: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// The bytes of a `tokenizer.json`, and the configuration with what other files say.
pub(super) fn read(
    directory: &Path,
    mut config: Map<String, Value>,
) -> Result<(Vec<u8>, Map<String, Value>), Error> {
    let path = directory.join(MODEL);
    if !path.is_file() {
        return Err(Error::invalid(
            directory.display().to_string(),
            format!(
                "it has neither tokenizer.json nor {MODEL}, expected the tokenizer: save it with \
                 `AutoTokenizer.from_pretrained(…).save_pretrained(…)`"
            ),
        ));
    }
    let model = Model::open(&path)?;
    for (name, value) in object(directory, SPECIAL)?.unwrap_or_default() {
        config.entry(name).or_insert(value);
    }
    let own = [model.begin, model.end, Some(model.unknown), model.padding];
    for (role, id) in ROLES.into_iter().zip(own) {
        let piece = id.and_then(|id| model.pieces.get(id as usize));
        if let Some(piece) = piece
            && !config.contains_key(role)
        {
            config.insert(role.to_owned(), piece.text.clone().into());
        }
    }
    let mut added = Added::new(&model);
    if let Some(tokens) = config.get("added_tokens_decoder") {
        added.decoder(tokens)?;
    } else if let Some(tokens) = object(directory, ADDED)? {
        added.named(&tokens)?;
    }
    added.special(&config)?;
    let json = tokenizer_json(&model, prefix(&model, &config)?, &added.finish()?);
    // transformers adds the start token only where it is told to.
    config.entry("add_bos_token").or_insert(Value::Bool(false));
    Ok((json, config))
}

fn prefix(model: &Model, config: &Map<String, Value>) -> Result<Prefix, Error> {
    let flag = |name: &str| match config.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(Error::invalid(
            CONFIG,
            format!("`{name}` is {other}, expected true or false"),
        )),
    };
    let wanted = flag("add_prefix_space")?.unwrap_or(model.dummy_prefix);
    let class = config.get("tokenizer_class").and_then(Value::as_str);
    let class = class.unwrap_or_default().trim_end_matches("Fast");
    let llama = LLAMA.contains(&class) && model.algorithm == Algorithm::Bpe;
    Ok(match (wanted, flag("legacy")?) {
        (false, _) => Prefix::Never,
        (true, _) if !llama => Prefix::Whole,
        (true, Some(true)) => Prefix::Always,
        (true, _) => Prefix::First,
    })
}

/// The tokens that are found in text, by id.
struct Added<'a> {
    tokens: BTreeMap<u32, AddedToken>,
    model: &'a Model,
    ids: BTreeMap<&'a str, u32>,
}

impl<'a> Added<'a> {
    fn new(model: &'a Model) -> Self {
        let own = own_tokens(model).into_iter();
        let pieces = model.pieces.iter().map(|piece| piece.text.as_str());
        Self {
            tokens: own.map(|token| (token.id, token)).collect(),
            model,
            ids: pieces.zip(0..).collect(),
        }
    }

    /// `added_tokens_decoder`: ids with what is said of each.
    fn decoder(&mut self, tokens: &Value) -> Result<(), Error> {
        let tokens = tokens.as_object().ok_or_else(|| {
            Error::invalid(
                CONFIG,
                "`added_tokens_decoder` is no object, expected ids with tokens",
            )
        })?;
        for (id, token) in tokens {
            let text = token.get("content").and_then(Value::as_str);
            let (Ok(id), Some(text)) = (id.parse(), text) else {
                return Err(Error::invalid(
                    CONFIG,
                    format!(
                        "`added_tokens_decoder` has {id:?}: {token}, expected an id with an object and its `content`"
                    ),
                ));
            };
            let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
            self.add(
                AddedToken {
                    id,
                    text: text.to_owned(),
                    special: flag("special"),
                    single_word: flag("single_word"),
                    strip_left: flag("lstrip"),
                    strip_right: flag("rstrip"),
                    normalized: flag("normalized"),
                },
                CONFIG,
            )?;
        }
        Ok(())
    }

    /// `added_tokens.json`: texts with their ids.
    fn named(&mut self, tokens: &Map<String, Value>) -> Result<(), Error> {
        for (text, id) in tokens {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| {
                Error::invalid(ADDED, format!("`{text}` has no id, expected a number"))
            })?;
            self.add(AddedToken::plain(id, text.clone(), false), ADDED)?;
        }
        Ok(())
    }

    /// The tokens with a role, which get an id where they have none.
    fn special(&mut self, config: &Map<String, Value>) -> Result<(), Error> {
        let mut texts = Vec::new();
        for role in ROLES {
            texts.extend(token_text(config, role)?.map(str::to_owned));
        }
        for name in MORE {
            let list = config.get(name).and_then(Value::as_array);
            for token in list.into_iter().flatten() {
                let text = token.as_str().or_else(|| token.get("content")?.as_str());
                texts.extend(text.map(str::to_owned));
            }
        }
        for text in texts {
            let known = self.tokens.values_mut().find(|token| token.text == text);
            if let Some(token) = known {
                token.special = true;
                continue;
            }
            let id = self.ids.get(text.as_str()).copied();
            let id = id.unwrap_or_else(|| {
                let last = self.tokens.keys().next_back().copied();
                last.map_or(0, |id| id.saturating_add(1))
                    .max(self.model.pieces.len() as u32)
            });
            self.add(AddedToken::plain(id, text, true), CONFIG)?;
        }
        Ok(())
    }

    fn add(&mut self, token: AddedToken, origin: &str) -> Result<(), Error> {
        let known = self.ids.get(token.text.as_str());
        let piece = self.model.pieces.get(token.id as usize);
        let agrees = match (known, piece) {
            (Some(id), _) => *id == token.id,
            (None, piece) => piece.is_none(),
        };
        if !agrees || token.text.is_empty() {
            let has = piece.map_or("no such id", |piece| piece.text.as_str());
            return Err(Error::invalid(
                origin,
                format!(
                    "it gives the id {} to {:?}, where {MODEL} has {has:?}: save a tokenizer.json with \
                     `AutoTokenizer.from_pretrained(…).save_pretrained(…)`",
                    token.id, token.text
                ),
            ));
        }
        self.tokens.insert(token.id, token);
        Ok(())
    }

    /// All of them, in the order of their ids.
    fn finish(self) -> Result<Vec<AddedToken>, Error> {
        let behind = self
            .tokens
            .keys()
            .filter(|id| **id >= self.model.pieces.len() as u32);
        if let Some((next, id)) = (self.model.pieces.len() as u32..)
            .zip(behind)
            .find(|(next, id)| next != *id)
        {
            return Err(Error::invalid(
                ADDED,
                format!("an added token has the id {id}, expected {next}, the next one"),
            ));
        }
        Ok(self.tokens.into_values().collect())
    }
}
