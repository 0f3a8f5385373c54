//! `tokenizer.model`: a SentencePiece model, as a protocol buffer of pieces and rules.
//!
//! The messages are those of SentencePiece's `sentencepiece_model.proto`, with the fields that decide how text becomes
//! pieces. What a model asks for and no reader here does is refused by name, so what [`Model::parse`] returns can be
//! converted.

use std::collections::HashSet;
use std::path::Path;

use prost::Message;

use crate::foreign_format;

/// The longest piece, in bytes. SentencePiece's own limit is 16 characters where nobody asks for more.
const LONGEST_PIECE: usize = 256;
/// The largest file; the largest known one has 256000 pieces in 4 MB.
const LARGEST_FILE: u64 = 32 << 20;
/// Marks a unit of a double array as a value.
const VALUE: usize = 1 << 31;

/// What can be wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// The cause.
        source: std::io::Error,
    },
    /// It is no model, or asks for what is not supported.
    #[error("{file}: {message}")]
    Invalid {
        /// The file.
        file: String,
        /// What it is, what was expected, the cure.
        message: String,
    },
}

/// What a piece is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PieceKind {
    /// A part of text.
    Normal,
    /// Stands for what has no piece.
    Unknown,
    /// Marks a place and is never part of text.
    Control,
    /// A part of text that is never split.
    UserDefined,
    /// Takes an id and is never part of text.
    Unused,
    /// A byte of what has no piece.
    Byte,
}

/// A piece of the vocabulary. Its place in the list is its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Its text, with `▁` for spaces.
    pub text: String,
    /// How likely it is: a logarithm, or in a model by merges the negative rank. Finite.
    pub score: f32,
    /// What it is.
    pub kind: PieceKind,
}

/// How text becomes pieces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// The likeliest sequence of pieces.
    Unigram,
    /// Merges of neighbours, the best one first.
    Bpe,
}

/// A model that can be converted: every field holds what its rule asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The vocabulary: no text twice, none empty.
    pub pieces: Vec<Piece>,
    /// How text becomes pieces.
    pub algorithm: Algorithm,
    /// Whether what has no piece becomes bytes: then there is one for each of the 256.
    pub byte_fallback: bool,
    /// The piece that stands for what is unknown.
    pub unknown: u32,
    /// The piece that begins a text, if any.
    pub begin: Option<u32>,
    /// The piece that ends a text, if any.
    pub end: Option<u32>,
    /// The piece that fills up, if any.
    pub padding: Option<u32>,
    /// Whether a space is put before a text.
    pub dummy_prefix: bool,
    /// Whether spaces at both ends and repeated ones are taken out.
    pub remove_extra_whitespaces: bool,
    /// The map of characters in SentencePiece's own form, checked; empty where characters stay as they are.
    pub charsmap: Vec<u8>,
}

impl Model {
    /// Reads and checks the model in the file at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        let io = |source| Error::Io {
            file: file.clone(),
            source,
        };
        let length = std::fs::metadata(path).map_err(io)?.len();
        if length > LARGEST_FILE {
            return Err(Error::Invalid {
                file,
                message: format!("it has {length} bytes, expected at most {LARGEST_FILE}"),
            });
        }
        let bytes = std::fs::read(path).map_err(io)?;
        Self::parse(&bytes).map_err(|message| Error::Invalid { file, message })
    }

    /// The model in `bytes`, or what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if let Some(is) = foreign_format::recognised(bytes) {
            return Err(format!("{is}, expected a SentencePiece model"));
        }
        let proto = ModelProto::decode(bytes).map_err(|error| {
            format!("it is no SentencePiece model ({error}): is it cut off, or of another kind, such as tiktoken's?")
        })?;
        let trainer = proto.trainer_spec.unwrap_or_default();
        let normalizer = proto.normalizer_spec.unwrap_or_default();
        let algorithm = match trainer.model_type.unwrap_or(1) {
            1 => Algorithm::Unigram,
            2 => Algorithm::Bpe,
            other => {
                return Err(format!(
                    "`model_type` is {other}, expected 1 (unigram) or 2 (BPE)"
                ));
            }
        };
        if trainer.treat_whitespace_as_suffix == Some(true) {
            return Err("`treat_whitespace_as_suffix` is true, which is not supported".to_owned());
        }
        if normalizer.escape_whitespaces == Some(false) {
            return Err("`escape_whitespaces` is false, which is not supported".to_owned());
        }
        let pieces = pieces(proto.pieces)?;
        let kind = |id: u32| pieces.get(id as usize).map(|piece| piece.kind);
        let unknown = unknown(&pieces, trainer.unk_id.unwrap_or(0))
            .ok_or_else(|| "`unk_id` names no piece of the type unknown".to_owned())?;
        // The files of some models say -1, or name a piece that is not there, for what they do not use.
        let role = |value: Option<i32>, default: i32| {
            id(value.unwrap_or(default)).filter(|id| kind(*id) == Some(PieceKind::Control))
        };
        let byte_fallback = trainer.byte_fallback.unwrap_or(false);
        if let Some(missing) = missing_byte(&pieces).filter(|_| byte_fallback) {
            return Err(format!(
                "`byte_fallback` is true, but the piece {missing} is not there"
            ));
        }
        let charsmap = normalizer.precompiled_charsmap.unwrap_or_default();
        check_charsmap(&charsmap)?;
        Ok(Self {
            algorithm,
            byte_fallback,
            unknown,
            begin: role(trainer.bos_id, 1),
            end: role(trainer.eos_id, 2),
            padding: role(trainer.pad_id, -1),
            dummy_prefix: normalizer.add_dummy_prefix.unwrap_or(true),
            remove_extra_whitespaces: normalizer.remove_extra_whitespaces.unwrap_or(true),
            charsmap,
            pieces,
        })
    }

    /// A model by merges from lists of texts, scores and types, one each a piece, with the types numbered as SentencePiece
    /// numbers them: how a GGUF file holds one. It keeps neither a map of characters nor a rule for repeated spaces. Without
    /// pieces for bytes, what has no piece is unknown. The error says what is wrong, and of which piece.
    pub fn from_lists(
        texts: &[String],
        scores: &[f64],
        kinds: &[i64],
        unknown_id: u32,
        dummy_prefix: bool,
    ) -> Result<Self, String> {
        if scores.len() != texts.len() || kinds.len() != texts.len() {
            return Err(format!(
                "it has {} texts, {} scores and {} types, expected one of each for a piece",
                texts.len(),
                scores.len(),
                kinds.len()
            ));
        }
        let protos = texts.iter().zip(scores).zip(kinds);
        let protos = protos.map(|((text, score), kind)| PieceProto {
            piece: Some(text.clone()),
            score: Some(*score as f32),
            kind: Some(i32::try_from(*kind).unwrap_or(-1)),
        });
        let pieces = pieces(protos.collect())?;
        let unknown = unknown(&pieces, unknown_id as i32).ok_or_else(|| {
            format!("the id {unknown_id} of the unknown token names no piece of the type unknown")
        })?;
        let has_bytes = pieces.iter().any(|piece| piece.kind == PieceKind::Byte);
        if let Some(missing) = missing_byte(&pieces).filter(|_| has_bytes) {
            return Err(format!(
                "it has pieces for bytes, but {missing} is not there"
            ));
        }
        Ok(Self {
            pieces,
            algorithm: Algorithm::Bpe,
            byte_fallback: has_bytes,
            unknown,
            begin: None,
            end: None,
            padding: None,
            dummy_prefix,
            remove_extra_whitespaces: false,
            charsmap: Vec::new(),
        })
    }
}

fn id(value: i32) -> Option<u32> {
    u32::try_from(value).ok()
}

/// The id, where it is that of a piece for what is unknown.
fn unknown(pieces: &[Piece], value: i32) -> Option<u32> {
    let is =
        |id: &u32| pieces.get(*id as usize).map(|piece| piece.kind) == Some(PieceKind::Unknown);
    id(value).filter(is)
}

/// The name of the first byte that has no piece.
fn missing_byte(pieces: &[Piece]) -> Option<String> {
    let bytes: HashSet<&str> = pieces
        .iter()
        .filter(|piece| piece.kind == PieceKind::Byte)
        .map(|piece| piece.text.as_str())
        .collect();
    (0..256_u16)
        .map(|byte| format!("<0x{byte:02X}>"))
        .find(|name| !bytes.contains(name.as_str()))
}

fn pieces(protos: Vec<PieceProto>) -> Result<Vec<Piece>, String> {
    if protos.is_empty() {
        return Err("it has no pieces, expected a SentencePiece vocabulary: is it of another kind, such as tiktoken's?".to_owned());
    }
    let mut pieces = Vec::with_capacity(protos.len());
    for (id, proto) in protos.into_iter().enumerate() {
        let text = proto.piece.unwrap_or_default();
        if text.is_empty() || text.len() > LONGEST_PIECE {
            return Err(format!(
                "piece {id} has {} bytes, expected 1 to {LONGEST_PIECE}",
                text.len()
            ));
        }
        let score = proto.score.unwrap_or(0.0);
        if !score.is_finite() {
            return Err(format!(
                "piece {id} has the score {score}, expected a number"
            ));
        }
        let kind = match proto.kind.unwrap_or(1) {
            1 => PieceKind::Normal,
            2 => PieceKind::Unknown,
            3 => PieceKind::Control,
            4 => PieceKind::UserDefined,
            5 => PieceKind::Unused,
            6 => PieceKind::Byte,
            other => {
                return Err(format!(
                    "piece {id} is of type {other}, expected 1 to 6 (normal, unknown, control, user-defined, unused, byte)"
                ));
            }
        };
        pieces.push(Piece { text, score, kind });
    }
    let mut known = HashSet::with_capacity(pieces.len());
    if let Some(twice) = pieces.iter().find(|piece| !known.insert(&piece.text)) {
        return Err(format!("the piece {:?} is there twice", twice.text));
    }
    Ok(pieces)
}

/// Looks at a map of characters: a length, a double array (Aoe, 1989) in units of 32 bits as Darts-clone writes them, and
/// texts that end in a zero byte, to which the leaves of the array point. Readers follow it without looking.
fn check_charsmap(bytes: &[u8]) -> Result<(), String> {
    let broken = |what: &str| Err(format!("`precompiled_charsmap` is broken: {what}"));
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return match bytes {
            [] => Ok(()),
            _ => broken("it has less than 4 bytes"),
        };
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || !length.is_multiple_of(1024) || length > rest.len() {
        return broken("its length is none that it can have");
    }
    let (array, texts) = rest.split_at(length);
    let Ok(texts) = std::str::from_utf8(texts) else {
        return broken("its texts are not UTF-8");
    };
    let units: Vec<usize> = array
        .chunks_exact(4)
        .map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]) as usize)
        .collect();
    let mut seen = vec![false; units.len()];
    let mut open = vec![0];
    seen[0] = true;
    while let Some(at) = open.pop() {
        let unit = units[at];
        let base = at ^ ((unit >> 10) << ((unit & (1 << 9)) >> 6));
        // The children of a node lie in one block of 256, and every byte may be asked for.
        if base | 0xff >= units.len() {
            return broken("a branch leads out of it");
        }
        let has_leaf = (unit >> 8) & 1 == 1;
        if has_leaf && !texts.is_char_boundary(units[base] & (VALUE - 1)) {
            return broken("a leaf points out of its texts");
        }
        for byte in 1..256 {
            let child = base ^ byte;
            if units[child] & (VALUE | 0xff) == byte && !seen[child] {
                seen[child] = true;
                open.push(child);
            }
        }
    }
    Ok(())
}

/// `ModelProto`.
#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerProto>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerProto>,
}

/// `ModelProto.SentencePiece`.
#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

/// `TrainerSpec`, of which most tells how the model was trained.
#[derive(Clone, PartialEq, Message)]
struct TrainerProto {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "40")]
    unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    eos_id: Option<i32>,
    #[prost(int32, optional, tag = "43")]
    pad_id: Option<i32>,
}

/// `NormalizerSpec`.
#[derive(Clone, PartialEq, Message)]
struct NormalizerProto {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}
