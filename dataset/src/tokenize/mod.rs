//! Text to tokens and back, with the model's own tokenizer, special tokens and chat template.
//!
//! Special tokens are recognised wherever they stand in a text, as transformers does it, and none is ever added unseen:
//! callers ask for the start token where a sequence needs it.

mod bytes;
mod folder;
mod gguf;
mod guard;
mod hugging_face;
mod sentence_piece;
mod sentence_piece_folder;
mod turn_end;

use std::collections::BTreeMap;
use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::template::{self, ChatTemplate};

use guard::guarded;
use turn_end::turn_end;

pub use turn_end::TurnEnd;

/// A text over which a tokenizer is tried out: letters, digits, signs, blanks, and characters of several bytes.
const TRIAL: &str = "Hello, world! 12 \u{e4}\u{4f60}\n";

/// What can go wrong with a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A file or a metadata key is not what it should be.
    #[error("{origin}: {message}")]
    Invalid {
        /// The file or key.
        origin: String,
        /// What it is, what was expected, the cure.
        message: String,
    },
    /// A SentencePiece model is at fault.
    #[error(transparent)]
    SentencePiece(#[from] finetune_artifacts::sentence_piece::Error),
    /// The chat template is at fault.
    #[error(transparent)]
    Template(#[from] template::Error),
    /// A conversation was given to a model without a chat template.
    #[error(
        "the base model has no chat template, which conversations need: give a base that was tuned for chat, or data in \
         format PromptCompletion or Text"
    )]
    NoTemplate,
    /// The tokenizer refused a text or ids.
    #[error("the tokenizer fails: {0}")]
    Tokenizer(String),
}

impl Error {
    fn invalid(origin: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            origin: origin.into(),
            message: message.into(),
        }
    }
}

/// A special token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// The tokens with a role of their own. In some models two roles share a token: the end of a turn is often the padding.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SpecialTokens {
    /// Begins a sequence.
    pub bos: Option<SpecialToken>,
    /// Ends a sequence or a turn.
    pub eos: Option<SpecialToken>,
    /// Stands for what is unknown.
    pub unk: Option<SpecialToken>,
    /// Fills rows up.
    pub pad: Option<SpecialToken>,
}

impl SpecialTokens {
    /// The variables of chat templates.
    fn variables(&self) -> BTreeMap<String, String> {
        [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("unk_token", &self.unk),
            ("pad_token", &self.pad),
        ]
        .into_iter()
        .filter_map(|(name, token)| Some((name.to_owned(), token.as_ref()?.text.clone())))
        .collect()
    }
}

/// What a source says of a tokenizer, before it is put together.
struct Parts {
    /// The bytes of a `tokenizer.json`.
    json: Vec<u8>,
    special: SpecialTokens,
    /// Whether a plain text begins with the start token.
    adds_bos: Option<bool>,
    /// More ids that end an answer.
    stop_ids: Vec<u32>,
    template: Option<String>,
    /// Where the tokenizer comes from, for messages.
    origin: String,
}

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Where it comes from, for messages.
    origin: String,
    special: SpecialTokens,
    adds_bos: bool,
    stop_ids: Vec<u32>,
    named_stop_ids: Vec<u32>,
    template: Option<ChatTemplate>,
    turn_end: Option<TurnEnd>,
    json: Vec<u8>,
    digest: String,
}

/// A text's tokens and where in the text each one stands.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Encoded {
    /// The ids.
    pub ids: Vec<u32>,
    /// Byte ranges of the text, one for each id. Tokens that share a character share its range.
    pub ranges: Vec<Range<usize>>,
}

impl Tokenizer {
    fn new(parts: Parts) -> Result<Self, Error> {
        let origin = parts.origin;
        let mut inner = guarded(&origin, || tokenizers::Tokenizer::from_bytes(&parts.json))?
            .map_err(|error| Error::invalid(&origin, error.to_string()))?;
        // What a file says of cutting and padding is for another use.
        inner
            .with_truncation(None)
            .map_err(|error| Error::Tokenizer(error.to_string()))?;
        inner.with_padding(None);
        let adds_bos = match (parts.adds_bos, &parts.special.bos) {
            (Some(adds), _) => adds,
            (None, None) => false,
            (None, Some(bos)) => {
                let empty = guarded(&origin, || inner.encode("", true))?
                    .map_err(|error| Error::Tokenizer(error.to_string()))?;
                empty.get_ids().first() == Some(&bos.id)
            }
        };
        let template = parts
            .template
            .as_deref()
            .map(|source| ChatTemplate::new(source, &parts.special.variables()))
            .transpose()?;
        let mut named_stop_ids = parts.stop_ids;
        named_stop_ids.extend(parts.special.eos.as_ref().map(|eos| eos.id));
        named_stop_ids.sort_unstable();
        named_stop_ids.dedup();
        let digest = digest(
            &parts.json,
            &parts.special,
            adds_bos,
            parts.template.as_deref(),
        );
        let mut tokenizer = Self {
            inner,
            origin,
            special: parts.special,
            adds_bos,
            stop_ids: named_stop_ids.clone(),
            named_stop_ids,
            template: None,
            turn_end: None,
            json: parts.json,
            digest,
        };
        // Here it is told once, later of each row.
        tokenizer.try_out()?;
        if let Some(template) = template {
            tokenizer.turn_end = turn_end(&template, &tokenizer);
            tokenizer.template = Some(template);
        }
        let ends = tokenizer.turn_end.iter().flat_map(|end| &end.answer);
        tokenizer.stop_ids.extend(ends);
        tokenizer.stop_ids.sort_unstable();
        tokenizer.stop_ids.dedup();
        Ok(tokenizer)
    }

    /// Fails where the library panics. What it refuses in good order is another matter: it may have no token for what no data
    /// holds.
    fn try_out(&self) -> Result<(), Error> {
        let tried = self
            .encode_with_ranges(TRIAL)
            .and_then(|trial| self.decode(&trial.ids, false));
        match tried {
            Err(error @ Error::Invalid { .. }) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The tokens of a text, nothing added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = guarded(&self.origin, || self.inner.encode_fast(text, false))?
            .map_err(|error| Error::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of a text that begins a sequence: with the start token before it where the model wants one and the text
    /// does not begin with it already.
    pub fn encode_sequence(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = self.encode(text)?;
        if let Some(bos) = self.special.bos.as_ref().filter(|_| self.adds_bos)
            && ids.first() != Some(&bos.id)
        {
            ids.insert(0, bos.id);
        }
        Ok(ids)
    }

    /// The tokens of a text with their places, nothing added.
    pub fn encode_with_ranges(&self, text: &str) -> Result<Encoded, Error> {
        let encoding = guarded(&self.origin, || self.inner.encode(text, false))?
            .map_err(|error| Error::Tokenizer(error.to_string()))?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            ranges: encoding
                .get_offsets()
                .iter()
                .map(|(start, end)| *start..*end)
                .collect(),
        })
    }

    /// The text of some tokens. `skip_special` leaves special tokens out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Error> {
        guarded(&self.origin, || self.inner.decode(ids, skip_special))?
            .map_err(|error| Error::Tokenizer(error.to_string()))
    }

    /// The tokenizer itself, for what is not wrapped here.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// The tokens with a role of their own.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner
            .get_added_vocabulary()
            .simple_id_to_token(id)
            .is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// Whether `id` was added to the vocabulary, as a special token or as an ordinary one.
    pub fn is_added(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.simple_id_to_token(id).is_some()
    }

    /// The ids that end an answer, in order: those that the model's files name, and those that end a turn of the assistant as
    /// the chat template prints it.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Those of [`Self::stop_ids`] that the model's files name: `eos_token`, and `eos_token_id` of the generation settings.
    /// Engines that do not look at the template end answers there only.
    pub fn named_stop_ids(&self) -> &[u32] {
        &self.named_stop_ids
    }

    /// How the chat template ends a turn of the assistant; `None` where there is no template or it prints no token there.
    pub const fn turn_end(&self) -> Option<&TurnEnd> {
        self.turn_end.as_ref()
    }

    /// The number of ids, special ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The chat template, or an error that says what its lack means.
    pub fn template(&self) -> Result<&ChatTemplate, Error> {
        self.template.as_ref().ok_or(Error::NoTemplate)
    }

    /// A `tokenizer.json` of this tokenizer.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// A `tokenizer_config.json` with which transformers uses this tokenizer as it is used here.
    pub fn config_json(&self) -> Vec<u8> {
        let mut config = serde_json::Map::new();
        for (name, token) in self.special.variables() {
            config.insert(name, token.into());
        }
        if let Some(template) = &self.template {
            config.insert("chat_template".to_owned(), template.source().into());
        }
        config.insert("clean_up_tokenization_spaces".to_owned(), false.into());
        config.insert(
            "tokenizer_class".to_owned(),
            "PreTrainedTokenizerFast".into(),
        );
        let mut text = serde_json::to_vec_pretty(&config).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// A digest of everything that decides how text becomes tokens: vocabulary, special tokens, template.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

fn digest(json: &[u8], special: &SpecialTokens, adds_bos: bool, template: Option<&str>) -> String {
    let mut hasher = Sha256::new();
    let mut add = |part: &[u8]| {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    add(json);
    for token in [&special.bos, &special.eos, &special.unk, &special.pad] {
        add(&token
            .as_ref()
            .map_or(u32::MAX, |token| token.id)
            .to_le_bytes());
    }
    add(&[u8::from(adds_bos)]);
    add(template.unwrap_or_default().as_bytes());
    format!("sha256:{}", hex::encode(hasher.finalize()))
}
