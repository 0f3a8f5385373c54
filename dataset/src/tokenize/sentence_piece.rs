//! Makes a `tokenizer.json` of a SentencePiece model, as transformers converts one: merges by the pieces' scores or a
//! unigram model, the model's own rules for spaces and characters, and its control and user-defined pieces as tokens that
//! are found in text.

use std::collections::HashSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use finetune_artifacts::sentence_piece::{Algorithm, Model, Piece, PieceKind};
use serde_json::{Value, json};

/// Stands for a space in pieces.
const SPACE: &str = "▁";

/// Which parts of a text get a space before them. The parts are what stands between special tokens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Prefix {
    /// None.
    Never,
    /// The one that begins the text, where it does not begin with one: as transformers' class for Llama does.
    First,
    /// All that do not begin with one: the same with `legacy`.
    Always,
    /// All, as SentencePiece itself does.
    Whole,
}

/// A token that is found in text before anything else.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the flags that tokenizer.json has"
)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) text: String,
    pub(super) special: bool,
    /// Whether it must be a word of its own.
    pub(super) single_word: bool,
    /// Whether it takes the white space on its left with it.
    pub(super) strip_left: bool,
    /// Whether it takes the white space on its right with it.
    pub(super) strip_right: bool,
    /// Whether it is looked for in the text after characters were mapped.
    pub(super) normalized: bool,
}

impl AddedToken {
    pub(super) fn plain(id: u32, text: String, special: bool) -> Self {
        Self {
            id,
            text,
            special,
            single_word: false,
            strip_left: false,
            strip_right: false,
            normalized: false,
        }
    }
}

/// The tokens that a model itself has found in text.
pub(super) fn own_tokens(model: &Model) -> Vec<AddedToken> {
    let pieces = (0..).zip(&model.pieces);
    pieces
        .filter(|(_, piece)| matches!(piece.kind, PieceKind::Control | PieceKind::UserDefined))
        .map(|(id, piece)| {
            let special = piece.kind == PieceKind::Control;
            AddedToken::plain(id, piece.text.clone(), special)
        })
        .collect()
}

/// The bytes of a `tokenizer.json`. `added` are in the order of their ids; those behind the pieces follow without a gap.
pub(super) fn tokenizer_json(model: &Model, prefix: Prefix, added: &[AddedToken]) -> Vec<u8> {
    let added: Vec<Value> = added
        .iter()
        .map(|token| {
            json!({
                "id": token.id, "content": token.text, "single_word": token.single_word, "lstrip": token.strip_left,
                "rstrip": token.strip_right, "normalized": token.normalized, "special": token.special,
            })
        })
        .collect();
    let metaspace = |scheme: &str| json!({ "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false });
    let pre_tokenizer = match prefix {
        Prefix::Never | Prefix::Whole => Value::Null,
        Prefix::First => metaspace("first"),
        Prefix::Always => metaspace("always"),
    };
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer(model, prefix),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": decoder(prefix),
        "model": match model.algorithm {
            Algorithm::Bpe => bpe(model),
            Algorithm::Unigram => unigram(model),
        },
    });
    tokenizer.to_string().into_bytes()
}

/// The model's map of characters and its rules for spaces, in SentencePiece's order: what it takes out at the end are spaces
/// in their written form.
fn normalizer(model: &Model, prefix: Prefix) -> Value {
    let replace = |kind: &str, pattern: &str, content: &str| json!({ "type": "Replace", "pattern": { kind: pattern }, "content": content });
    let mut steps = Vec::new();
    if !model.charsmap.is_empty() {
        steps.push(
            json!({ "type": "Precompiled", "precompiled_charsmap": BASE64.encode(&model.charsmap) }),
        );
    }
    if model.remove_extra_whitespaces {
        steps.push(replace("Regex", r"\A +", ""));
        steps.push(replace("Regex", " {2,}", " "));
    }
    if prefix == Prefix::Whole {
        steps.push(json!({ "type": "Prepend", "prepend": SPACE }));
    }
    if matches!(prefix, Prefix::Whole | Prefix::Never) {
        steps.push(replace("String", " ", SPACE));
    }
    if model.remove_extra_whitespaces {
        steps.push(replace("Regex", r"[ ▁]+\z", ""));
    }
    match steps.is_empty() {
        true => Value::Null,
        false => json!({ "type": "Sequence", "normalizers": steps }),
    }
}

fn decoder(prefix: Prefix) -> Value {
    let mut steps = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix != Prefix::Never {
        steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": steps })
}

fn bpe(model: &Model) -> Value {
    let vocabulary: serde_json::Map<String, Value> = model
        .pieces
        .iter()
        .enumerate()
        .map(|(id, piece)| (piece.text.clone(), id.into()))
        .collect();
    let unknown = model.pieces.get(model.unknown as usize);
    json!({
        "type": "BPE", "dropout": null, "unk_token": unknown.map(|piece| piece.text.as_str()),
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
        "byte_fallback": model.byte_fallback, "ignore_merges": false, "vocab": vocabulary, "merges": merges(&model.pieces),
    })
}

/// Every way to put a piece together from two others: those of the piece with the best score first, then those with the
/// longest left part, then those with the longest right part, as transformers' `generate_merges` sorts them.
fn merges(pieces: &[Piece]) -> Vec<[&str; 2]> {
    let parts = |piece: &&Piece| matches!(piece.kind, PieceKind::Normal | PieceKind::UserDefined);
    let known: HashSet<&str> = pieces
        .iter()
        .filter(parts)
        .map(|piece| piece.text.as_str())
        .collect();
    let mut merges: Vec<_> = pieces
        .iter()
        .filter(parts)
        .flat_map(|piece| {
            let text = piece.text.as_str();
            let cuts = text.char_indices().skip(1);
            cuts.map(|(at, _)| (piece.score, text.split_at(at)))
        })
        .filter(|(_, (left, right))| known.contains(left) && known.contains(right))
        .map(|(score, (left, right))| {
            let lengths = [left, right].map(|part| part.chars().count());
            (score, lengths, [left, right])
        })
        .collect();
    // Stable: what is equal stays in the order of the ids.
    merges.sort_by(|one, other| {
        let by_score = other.0.total_cmp(&one.0);
        by_score.then_with(|| other.1.cmp(&one.1))
    });
    merges.into_iter().map(|(_, _, merge)| merge).collect()
}

fn unigram(model: &Model) -> Value {
    let scores = model.pieces.iter().map(|piece| f64::from(piece.score));
    let lowest = scores.fold(0.0, f64::min);
    // Bytes stand for what has no piece and not for their own names, which have six characters. (A name with a letter that
    // has no piece is taken for the byte all the same: the library makes what is unknown cost more than any piece.)
    let byte = 7.0 * (lowest - 10.0);
    let vocabulary: Vec<Value> = model
        .pieces
        .iter()
        .map(|piece| match piece.kind {
            PieceKind::Byte => json!([piece.text, byte]),
            _ => json!([piece.text, f64::from(piece.score)]),
        })
        .collect();
    json!({
        "type": "Unigram", "unk_id": model.unknown, "vocab": vocabulary, "byte_fallback": model.byte_fallback,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_go_by_score_and_leave_out_pieces_that_are_no_text() {
        let piece = |text: &str, score, kind| Piece {
            text: text.to_owned(),
            score,
            kind,
        };
        let pieces = [
            piece("<", 0.0, PieceKind::Control),
            piece("ab", -5.0, PieceKind::Normal),
            piece("a", -9.0, PieceKind::Normal),
            piece("b", -9.0, PieceKind::Normal),
            piece("aab", -4.0, PieceKind::Normal),
            piece("aa", -5.0, PieceKind::Normal),
            piece("<a", -1.0, PieceKind::Normal),
        ];
        assert_eq!(
            merges(&pieces),
            [["aa", "b"], ["a", "ab"], ["a", "b"], ["a", "a"]]
        );
    }
}
