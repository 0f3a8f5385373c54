//! The tokenizer that a GGUF file carries in its metadata: byte-level BPE with one of the known pre-tokenisers.
//!
//! It is written out as a `tokenizer.json`, so that there is one way to make a tokenizer, and a model saved later has
//! that file.

use finetune_artifacts::gguf::{GgufFile, Value as Metadata};
use serde_json::{Value, json};

use super::{Error, Parts, SpecialToken, SpecialTokens, Tokenizer};

/// Token types as llama.cpp numbers them.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

const TOKENS: &str = "tokenizer.ggml.tokens";

impl Tokenizer {
    /// Reads the tokenizer of a GGUF file.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, Error> {
        let model = text(file, "tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(Error::invalid(
                "tokenizer.ggml.model",
                format!(
                    "it is `{model}`, expected `gpt2` (byte-level BPE): give the model's Hugging Face directory instead"
                ),
            ));
        }
        let rules = rules(text(file, "tokenizer.ggml.pre")?)?;
        let tokens = strings(file, TOKENS)?;
        let types = file
            .metadata("tokenizer.ggml.token_type")
            .and_then(Metadata::as_integers)
            .filter(|types| types.len() == tokens.len())
            .ok_or_else(|| {
                Error::invalid(
                    "tokenizer.ggml.token_type",
                    format!(
                        "expected a list of {} types, one for each token",
                        tokens.len()
                    ),
                )
            })?;
        let token = |key: &str| special_token(file, tokens, key);
        let bos = token("tokenizer.ggml.bos_token_id")?;
        let adds_bos = adds_bos(file, &rules)?;
        let merges = strings(file, "tokenizer.ggml.merges")?;
        let start = bos.as_ref().filter(|_| adds_bos);
        let json = tokenizer_json(tokens, types, merges, &rules, start)?;
        let eot = token("tokenizer.ggml.eot_token_id")?;
        Self::new(Parts {
            json,
            special: SpecialTokens {
                bos,
                eos: token("tokenizer.ggml.eos_token_id")?,
                unk: token("tokenizer.ggml.unknown_token_id")?,
                pad: token("tokenizer.ggml.padding_token_id")?,
            },
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

fn adds_bos(file: &GgufFile, rules: &Rules) -> Result<bool, Error> {
    let key = "tokenizer.ggml.add_bos_token";
    match file.metadata(key) {
        // llama.cpp's own choice where the file is silent.
        None => Ok(rules.adds_bos),
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
