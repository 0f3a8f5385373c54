//! The tokenizer that a GGUF file carries in its metadata: byte-level BPE with one of the known pre-tokenisers (`gpt2`), or a
//! SentencePiece model by merges (`llama`).
//!
//! It is written out as a `tokenizer.json`, so that there is one way to make a tokenizer, and a model saved later has
//! that file.

use finetune_artifacts::gguf::{GgufFile, Value as Metadata};
use finetune_artifacts::sentence_piece::Model;
use serde_json::{Value, json};

use super::sentence_piece::{self, Prefix};
use super::{Error, Parts, SpecialToken, SpecialTokens, Tokenizer};

/// Token types as llama.cpp numbers them.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

const TOKENS: &str = "tokenizer.ggml.tokens";
const BEGIN: &str = "tokenizer.ggml.bos_token_id";
const END: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";

impl Tokenizer {
    /// Reads the tokenizer of a GGUF file.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, Error> {
        match text(file, "tokenizer.ggml.model")? {
            "gpt2" => byte_level(file),
            "llama" => merged_by_score(file),
            other => Err(Error::invalid(
                "tokenizer.ggml.model",
                format!(
                    "it is `{other}`, expected `gpt2` (byte-level BPE) or `llama` (SentencePiece): give the model's Hugging Face \
                     directory instead"
                ),
            )),
        }
    }

    /// With what files of all kinds say of special tokens and of the template.
    fn with_metadata(
        file: &GgufFile,
        json: Vec<u8>,
        special: SpecialTokens,
        adds_bos: bool,
    ) -> Result<Self, Error> {
        let eot = special_token(file, strings(file, TOKENS)?, "tokenizer.ggml.eot_token_id")?;
        Self::new(Parts {
            json,
            special,
            adds_bos: Some(adds_bos),
            stop_ids: eot.map(|token| token.id).into_iter().collect(),
            template: file
                .metadata("tokenizer.chat_template")
                .and_then(Metadata::as_str)
                .map(str::to_owned),
            origin: "tokenizer.ggml".to_owned(),
        })
    }
}

fn byte_level(file: &GgufFile) -> Result<Tokenizer, Error> {
    let rules = rules(text(file, "tokenizer.ggml.pre")?)?;
    let tokens = strings(file, TOKENS)?;
    let special = special_tokens(file, tokens)?;
    let adds_bos = flag(file, "tokenizer.ggml.add_bos_token", rules.adds_bos)?;
    let merges = strings(file, "tokenizer.ggml.merges")?;
    let start = special.bos.as_ref().filter(|_| adds_bos);
    let json = tokenizer_json(tokens, types(file, tokens)?, merges, &rules, start)?;
    Tokenizer::with_metadata(file, json, special, adds_bos)
}

/// A SentencePiece model by merges, whose scores are their order. Where the file is silent, llama.cpp's choices: a space
/// before every part of a text between special tokens, a start token, and the ids 0 to 2 for what is unknown, start and end.
fn merged_by_score(file: &GgufFile) -> Result<Tokenizer, Error> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let tokens = strings(file, TOKENS)?;
    let scores = file.metadata(SCORES).and_then(Metadata::as_floats);
    let scores = scores.ok_or_else(|| {
        Error::invalid(
            SCORES,
            "it is absent, expected a list of numbers, one for each token",
        )
    })?;
    let mut special = special_tokens(file, tokens)?;
    let usual = |id: u32| {
        let text = tokens.get(id as usize)?.clone();
        Some(SpecialToken { id, text })
    };
    for (key, role, id) in [
        (UNKNOWN, &mut special.unk, 0),
        (BEGIN, &mut special.bos, 1),
        (END, &mut special.eos, 2),
    ] {
        if file.metadata(key).is_none() {
            *role = usual(id);
        }
    }
    let unknown = special.unk.as_ref().map_or(0, |token| token.id);
    let spaced = flag(file, "tokenizer.ggml.add_space_prefix", true)?;
    let model = Model::from_lists(tokens, scores, types(file, tokens)?, unknown, spaced)
        .map_err(|message| Error::invalid(TOKENS, message))?;
    let prefix = match spaced {
        true => Prefix::Whole,
        false => Prefix::Never,
    };
    let json = sentence_piece::tokenizer_json(&model, prefix, &sentence_piece::own_tokens(&model));
    let adds_bos = flag(file, "tokenizer.ggml.add_bos_token", true)?;
    Tokenizer::with_metadata(file, json, special, adds_bos)
}

fn special_tokens(file: &GgufFile, tokens: &[String]) -> Result<SpecialTokens, Error> {
    let token = |key: &str| special_token(file, tokens, key);
    Ok(SpecialTokens {
        bos: token(BEGIN)?,
        eos: token(END)?,
        unk: token(UNKNOWN)?,
        pad: token("tokenizer.ggml.padding_token_id")?,
    })
}

fn types<'file>(file: &'file GgufFile, tokens: &[String]) -> Result<&'file [i64], Error> {
    const TYPES: &str = "tokenizer.ggml.token_type";
    let types = file.metadata(TYPES).and_then(Metadata::as_integers);
    types
        .filter(|types| types.len() == tokens.len())
        .ok_or_else(|| {
            let count = tokens.len();
            let message = format!("expected a list of {count} types, one for each token");
            Error::invalid(TYPES, message)
        })
}

fn text<'file>(file: &'file GgufFile, key: &str) -> Result<&'file str, Error> {
    file.metadata(key)
        .and_then(Metadata::as_str)
        .ok_or_else(|| Error::invalid(key, "it is absent, expected text"))
}

fn strings<'file>(file: &'file GgufFile, key: &str) -> Result<&'file [String], Error> {
    file.metadata(key)
        .and_then(Metadata::as_strings)
        .ok_or_else(|| Error::invalid(key, "it is absent, expected a list of strings"))
}

fn special_token(
    file: &GgufFile,
    tokens: &[String],
    key: &str,
) -> Result<Option<SpecialToken>, Error> {
    let Some(value) = file.metadata(key) else {
        return Ok(None);
    };
    value
        .as_u64()
        .and_then(|id| {
            Some(SpecialToken {
                id: u32::try_from(id).ok()?,
                text: tokens.get(usize::try_from(id).ok()?)?.clone(),
            })
        })
        .map(Some)
        .ok_or_else(|| {
            Error::invalid(
                key,
                format!("it is {value}, expected an id below {}", tokens.len()),
            )
        })
}

/// True or false; `usual`, llama.cpp's own choice, where the file is silent.
fn flag(file: &GgufFile, key: &str, usual: bool) -> Result<bool, Error> {
    match file.metadata(key) {
        None => Ok(usual),
        Some(value) => value
            .as_bool()
            .ok_or_else(|| Error::invalid(key, format!("it is {value}, expected a boolean"))),
    }
}

/// How text is cut before merges apply.
struct Rules {
    pre_tokenizer: Value,
    /// Whether a piece that is a token as a whole stays whole, whatever the merges say.
    ignore_merges: bool,
    normalizer: Value,
    adds_bos: bool,
}

/// The rules that `tokenizer.ggml.pre` names, as the models' own tokenizer.json files have them.
fn rules(pre: &str) -> Result<Rules, Error> {
    let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let sequence = |first: Value, second: Value| json!({ "type": "Sequence", "pretokenizers": [first, second] });
    let split = |numbers: &str| {
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
    };
    let plain = |pre_tokenizer: Value| Rules {
        pre_tokenizer,
        ignore_merges: false,
        normalizer: Value::Null,
        adds_bos: false,
    };
    match pre {
        "gpt-2" => Ok(plain(byte_level(true))),
        "smollm" => Ok(plain(sequence(
            json!({ "type": "Digits", "individual_digits": true }),
            byte_level(true),
        ))),
        "llama-bpe" => Ok(Rules {
            ignore_merges: true,
            adds_bos: true,
            ..plain(sequence(split(r"\p{N}{1,3}"), byte_level(false)))
        }),
        "qwen2" => Ok(Rules {
            normalizer: json!({ "type": "NFC" }),
            ..plain(sequence(split(r"\p{N}"), byte_level(false)))
        }),
        other => Err(Error::invalid(
            "tokenizer.ggml.pre",
            format!(
                "it is `{other}`, expected gpt-2, smollm, llama-bpe or qwen2: give the model's Hugging Face directory instead"
            ),
        )),
    }
}

fn tokenizer_json(
    tokens: &[String],
    types: &[i64],
    merges: &[String],
    rules: &Rules,
    start: Option<&SpecialToken>,
) -> Result<Vec<u8>, Error> {
    let mut vocabulary = serde_json::Map::new();
    let mut added = Vec::new();
    for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
        if vocabulary.insert(token.clone(), id.into()).is_some() {
            return Err(Error::invalid(
                TOKENS,
                format!("token {token:?} is there twice"),
            ));
        }
        if matches!(*kind, CONTROL | USER_DEFINED) {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == CONTROL,
            }));
        }
    }
    let merges: Vec<Value> = merges
        .iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok(json!([left, right])),
            None => Err(Error::invalid(
                "tokenizer.ggml.merges",
                format!("merge {merge:?} has no space, expected two tokens"),
            )),
        })
        .collect::<Result<_, _>>()?;
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.pre_tokenizer,
        "post_processor": start.map(post_processor),
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": rules.ignore_merges, "vocab": vocabulary, "merges": merges,
        },
    });
    Ok(tokenizer.to_string().into_bytes())
}

/// Has other readers of the file put the start token before a text, as this one does.
fn post_processor(start: &SpecialToken) -> Value {
    let token = json!({ "SpecialToken": { "id": start.text, "type_id": 0 } });
    let sequence = |name: &str, kind: u32| json!({ "Sequence": { "id": name, "type_id": kind } });
    json!({
        "type": "TemplateProcessing",
        "single": [token, sequence("A", 0)],
        "pair": [token, sequence("A", 0), sequence("B", 1)],
        "special_tokens": {
            start.text.as_str(): { "id": start.text, "ids": [start.id], "tokens": [start.text] },
        },
    })
}
