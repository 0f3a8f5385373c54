//! `tokenizer.model` files, and files beside them, that are not what they should be.

use std::path::Path;

use crate::table::{Case, case, refuse_all};

const MODEL: &str = "tokenizer.model";
const CONFIG: &str = "tokenizer_config.json";
const ADDED: &str = "added_tokens.json";

#[test]
fn broken_sentence_piece_models_are_refused_by_file() {
    refuse_all("tiny-llama", MODELS);
}

#[test]
fn files_that_contradict_a_sentence_piece_model_are_refused_by_file() {
    refuse_all("tiny-llama", BESIDE);
}

/// A field of a protocol buffer that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![
        number << 3 | 2,
        (bytes.len() & 0x7f) as u8 | 0x80,
        (bytes.len() >> 7) as u8,
    ];
    field.extend(bytes);
    field
}

fn piece(text: &[u8], score: f32, kind: u8) -> Vec<u8> {
    let mut piece = field(1, text);
    piece.push(2 << 3 | 5);
    piece.extend(score.to_le_bytes());
    piece.extend([3 << 3, kind]);
    field(1, &piece)
}

/// A model of three pieces and `more`, with what its trainer and its normaliser are told.
fn model(more: &[Vec<u8>], trainer: &[u8], normalizer: &[u8]) -> Vec<u8> {
    let mut bytes = piece(b"<unk>", 0.0, 2);
    bytes.extend(piece(b"<s>", 0.0, 3));
    bytes.extend(piece(b"a", -1.0, 1));
    bytes.extend(more.concat());
    bytes.extend(field(2, &[&[3 << 3, 2], trainer].concat()));
    bytes.extend(field(3, normalizer));
    bytes
}

/// Leaves `bytes` as the folder's only tokenizer.
fn put(folder: &Path, bytes: &[u8]) {
    std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
    std::fs::write(folder.join(CONFIG), "{}").unwrap();
    std::fs::write(folder.join(MODEL), bytes).unwrap();
}

fn beside(folder: &Path, name: &str, text: &str) {
    put(folder, &model(&[], &[], &[]));
    std::fs::write(folder.join(name), text).unwrap();
}

/// `precompiled_charsmap` of this length and these units, with the texts behind them.
fn charsmap(length: u32, first: u32, texts: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(first.to_le_bytes());
    bytes.resize(4 + 1024, 0);
    bytes.extend(texts);
    field(2, &bytes)
}

const MODELS: &[Case] = &[
    case("an empty model", &[MODEL, "it has no pieces"], |folder| {
        put(folder, b"")
    }),
    case("a model cut short", &[MODEL, "is it cut off"], |folder| {
        let bytes = model(&[], &[], &[]);
        put(folder, &bytes[..bytes.len() - 4]);
    }),
    case("a vocabulary of tiktoken", &[MODEL, "tiktoken"], |folder| {
        put(folder, b"IQ== 0\nIg== 1\n")
    }),
    case("a pointer of Git LFS", &[MODEL, "Git LFS"], |folder| {
        put(
            folder,
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        );
    }),
    case("a pickle", &[MODEL, "pickle"], |folder| {
        put(folder, b"\x80\x02}q\0.")
    }),
    case(
        "a piece twice",
        &[MODEL, "\"a\" is there twice"],
        |folder| {
            put(folder, &model(&[piece(b"a", -2.0, 1)], &[], &[]));
        },
    ),
    case(
        "an empty piece",
        &[MODEL, "piece 3 has 0 bytes"],
        |folder| {
            put(folder, &model(&[piece(b"", -2.0, 1)], &[], &[]));
        },
    ),
    case(
        "a piece of 1 kB and more",
        &[MODEL, "piece 3 has 1025 bytes"],
        |folder| {
            put(folder, &model(&[piece(&[b'x'; 1025], -2.0, 1)], &[], &[]));
        },
    ),
    case(
        "a piece that is not UTF-8",
        &[MODEL, "no SentencePiece model"],
        |folder| {
            put(folder, &model(&[piece(b"\xff", -2.0, 1)], &[], &[]));
        },
    ),
    case(
        "a score that is no number",
        &[MODEL, "piece 3 has the score NaN"],
        |folder| {
            put(folder, &model(&[piece(b"b", f32::NAN, 1)], &[], &[]));
        },
    ),
    case(
        "a piece of an unknown type",
        &[MODEL, "piece 3 is of type 9"],
        |folder| {
            put(folder, &model(&[piece(b"b", -2.0, 9)], &[], &[]));
        },
    ),
    case(
        "a model of words",
        &[MODEL, "`model_type` is 3, expected 1 (unigram) or 2 (BPE)"],
        |folder| {
            put(folder, &model(&[], &[3 << 3, 3], &[]));
        },
    ),
    case(
        "spaces behind words",
        &[MODEL, "treat_whitespace_as_suffix"],
        |folder| {
            put(folder, &model(&[], &[0xc0, 1, 1], &[]));
        },
    ),
    case(
        "spaces that stay spaces",
        &[MODEL, "escape_whitespaces"],
        |folder| {
            put(folder, &model(&[], &[], &[5 << 3, 0]));
        },
    ),
    case("no piece for the unknown", &[MODEL, "`unk_id`"], |folder| {
        put(folder, &model(&[], &[0xc0, 2, 2], &[]));
    }),
    case("bytes that are not there", &[MODEL, "<0x00>"], |folder| {
        put(folder, &model(&[], &[0x98, 2, 1], &[]));
    }),
    case(
        "a map of 4 GB",
        &[MODEL, "precompiled_charsmap"],
        |folder| {
            put(folder, &model(&[], &[], &charsmap(u32::MAX - 1023, 0, b"")));
        },
    ),
    case(
        "a map with a branch out of it",
        &[MODEL, "a branch leads out of it"],
        |folder| {
            put(folder, &model(&[], &[], &charsmap(1024, 1 << 20, b"")));
        },
    ),
    case(
        "a map with a leaf out of its texts",
        &[MODEL, "a leaf points out of its texts"],
        |folder| {
            put(folder, &model(&[], &[], &charsmap(1024, 1 << 8, b"")));
        },
    ),
    case(
        "a map to texts that are not UTF-8",
        &[MODEL, "not UTF-8"],
        |folder| {
            put(folder, &model(&[], &[], &charsmap(1024, 0, b"\xff")));
        },
    ),
];

const BESIDE: &[Case] = &[
    case(
        "an id of another piece",
        &[ADDED, "the id 2", "\"b\"", "\"a\""],
        |folder| {
            beside(folder, ADDED, r#"{"b": 2}"#);
        },
    ),
    case("a piece under another id", &[ADDED, "the id 7"], |folder| {
        beside(folder, ADDED, r#"{"a": 7}"#);
    }),
    case(
        "a gap between ids",
        &["has the id 5, expected 3"],
        |folder| {
            beside(folder, ADDED, r#"{"b": 5}"#);
        },
    ),
    case(
        "an id that is no number",
        &[ADDED, "`b` has no id"],
        |folder| {
            beside(folder, ADDED, r#"{"b": "3"}"#);
        },
    ),
    case(
        "an added token without a text",
        &[CONFIG, "added_tokens_decoder"],
        |folder| {
            beside(
                folder,
                CONFIG,
                r#"{"added_tokens_decoder": {"3": {"special": true}}}"#,
            );
        },
    ),
    case(
        "a rule that is no truth value",
        &[CONFIG, "`legacy` is 1"],
        |folder| {
            beside(folder, CONFIG, r#"{"legacy": 1}"#);
        },
    ),
];
