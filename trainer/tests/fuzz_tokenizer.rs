//! The readers of the tokenizers of GGUF files and of SentencePiece models against thousands of changed files: they refuse,
//! or make a tokenizer that works.
//!
//! The other parsers of untrusted bytes are in a crate without libtorch, and so is the fuzzing of them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

#[path = "../../artifacts/tests/fuzz/allocations.rs"]
mod allocations;
#[path = "../../artifacts/tests/fuzz/driver.rs"]
mod driver;
#[path = "../../artifacts/tests/fuzz/mutator.rs"]
mod mutator;

use std::path::Path;

use driver::{Budget, Scratch, fuzz};
use finetune_artifacts::gguf::GgufFile;
use finetune_dataset::tokenize::Tokenizer;

/// A tokenizer holds its vocabulary several times, in maps.
const BUDGET: Budget = Budget {
    iterations: 2_000,
    memory: 512,
    fixed: 1 << 20,
};

#[test]
fn a_changed_tokenizer_of_a_gguf_file_is_refused_or_works() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/q4_1.gguf");
    let whole = std::fs::read(fixture).unwrap();
    let name = b"token_embd.weight";
    let end = whole
        .windows(name.len())
        .position(|part| part == name)
        .unwrap();
    // The metadata alone: no tensors.
    let mut header = whole[..end - 8].to_vec();
    header[8..16].copy_from_slice(&0_u64.to_le_bytes());
    let scratch = Scratch::new();
    fuzz("tokenizer", BUDGET, &[header], |bytes| {
        let Ok(file) = GgufFile::open(&scratch.write(bytes)) else {
            return;
        };
        let Ok(tokenizer) = Tokenizer::from_gguf(&file) else {
            return;
        };
        for text in ["", "Hi <|im_end|> 12", "\0 Grüße\n\n👍"] {
            for token in tokenizer.encode(text).unwrap_or_default() {
                assert!((token as usize) < tokenizer.vocabulary_size());
            }
        }
        let _ = tokenizer.template();
    });
}

#[test]
fn a_changed_sentence_piece_model_is_refused_or_works() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece");
    let seeds = ["llama", "unigram-characters"]
        .map(|name| std::fs::read(fixtures.join(name).join("tokenizer.model")).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let budget = Budget {
        iterations: 1_000,
        // Expressions are compiled for each.
        fixed: 8 << 20,
        ..BUDGET
    };
    fuzz("sentence-piece-tokenizer", budget, &seeds, |bytes| {
        std::fs::write(folder.path().join("tokenizer.model"), bytes).unwrap();
        let Ok(tokenizer) = Tokenizer::from_directory(folder.path()) else {
            return;
        };
        for text in ["", "Hi <s>  12", "\0 Ａ Grüße\n\n👍 \u{a0}ﬁ"] {
            for token in tokenizer.encode(text).unwrap_or_default() {
                assert!((token as usize) < tokenizer.vocabulary_size());
            }
        }
    });
}
