//! Tokenizers that are a `tokenizer.model` alone (`fixtures/sentencepiece`, `expected/sentencepiece.json`): the ids of
//! transformers' conversion and of SentencePiece, and a base that has one.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use finetune_artifacts::gguf::GgufFile;
use finetune_dataset::tokenize::Tokenizer;
use rstest::rstest;
use serde::Deserialize;
use trainer::base::BaseModelFiles;

use crate::fixtures;

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Option<Vec<u32>>,
    sentencepiece: Option<Vec<u32>>,
}

fn folder(name: &str) -> std::path::PathBuf {
    fixtures().join("sentencepiece").join(name)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

#[rstest]
fn a_sentence_piece_model_gives_the_ids_of_the_reference(
    #[values(
        "llama",
        "llama-legacy",
        "gemma",
        "bpe-unknown",
        "unigram",
        "unigram-characters"
    )]
    name: &str,
) -> Result<()> {
    let tokenizer = Tokenizer::from_directory(&folder(name))?;
    compare(&tokenizer, name, |case| case.ids)
}

/// `expected` is what a case says that the ids must be, if it does.
fn compare(
    tokenizer: &Tokenizer,
    name: &str,
    expected: impl Fn(Case) -> Option<Vec<u32>>,
) -> Result<()> {
    let path = fixtures().join("expected/sentencepiece.json");
    let mut models: BTreeMap<String, Vec<Case>> = serde_json::from_slice(&std::fs::read(path)?)?;
    let cases = models.remove(name).context("no such model")?;
    let mut faults = Vec::new();
    let mut compared = 0;
    for case in cases {
        let text = case.text.clone();
        let Some(ids) = expected(case) else { continue };
        let found = tokenizer.encode(&text)?;
        if found != ids {
            faults.push(format!("{text:?}: {found:?}, expected {ids:?}"));
        }
        compared += 1;
    }
    ensure!(compared > 30 && faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn gguf(name: &str) -> Result<Tokenizer> {
    let path = fixtures().join(format!("gguf/tokenizer-{name}.gguf"));
    Ok(Tokenizer::from_gguf(&GgufFile::open(&path)?)?)
}

#[rstest]
fn a_gguf_with_such_a_model_gives_the_ids_of_sentence_piece(
    #[values("llama-legacy", "gemma", "bpe-unknown")] name: &str,
) -> Result<()> {
    compare(&gguf(name)?, name, |case| case.sentencepiece)
}

/// As llama.cpp does it: what follows a special token is a text of its own.
#[test]
fn a_gguf_with_such_a_model_puts_a_space_before_every_part_and_the_start_token_before_all()
-> Result<()> {
    let tokenizer = gguf("llama")?;
    let text = tokenizer.encode("begin")?;
    let parts = tokenizer.encode("<s>begin[INST]begin")?;
    let instruction = parts.get(1 + text.len()).copied().context("too short")?;
    ensure!(tokenizer.decode(&[instruction], false)? == "[INST]");
    ensure!(parts == [&[1], text.as_slice(), &[instruction], text.as_slice()].concat());
    ensure!(tokenizer.encode_sequence("begin")? == [&[1], text.as_slice()].concat());
    ensure!(tokenizer.decode(&text, false)? == "begin");
    let special = tokenizer.special();
    let ids = [&special.bos, &special.eos, &special.unk]
        .map(|token| token.as_ref().map(|token| token.id));
    ensure!(ids == [Some(1), Some(2), Some(0)], "{ids:?}");
    Ok(())
}

#[test]
fn tokens_with_a_role_come_from_the_files_beside_the_model_and_else_from_the_model() -> Result<()> {
    let ids = |name: &str| -> Result<_> {
        let tokenizer = Tokenizer::from_directory(&folder(name))?;
        let special = tokenizer.special();
        let roles = [&special.bos, &special.eos, &special.unk, &special.pad];
        let ids = roles.map(|token| token.as_ref().map(|token| token.id));
        Ok((ids, tokenizer.encode_sequence("a")?[0]))
    };
    let (llama, first) = ids("llama")?;
    ensure!(
        llama == [Some(1), Some(2), Some(0), Some(700)] && first == 1,
        "{llama:?} {first}"
    );
    let (legacy, first) = ids("llama-legacy")?;
    ensure!(
        legacy == [Some(1), Some(2), Some(0), Some(700)] && first != 1,
        "{legacy:?} {first}"
    );
    let (gemma, _) = ids("gemma")?;
    ensure!(gemma == [Some(2), Some(1), Some(3), Some(0)], "{gemma:?}");
    Ok(())
}

/// A base of which the tokenizer is the model `llama`.
fn base() -> Result<tempfile::TempDir> {
    let place = tempfile::tempdir()?;
    copy(&fixtures().join("tiny-llama"), place.path())?;
    std::fs::remove_file(place.path().join("tokenizer.json"))?;
    copy(&folder("llama"), place.path())?;
    let config = place.path().join("config.json");
    let mut keys: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&std::fs::read(&config)?)?;
    keys.insert("vocab_size".to_owned(), 701.into());
    std::fs::write(config, serde_json::to_vec(&keys)?)?;
    Ok(place)
}

#[test]
fn a_model_saved_from_such_a_base_carries_its_tokenizer() -> Result<()> {
    let base = base()?;
    let files = BaseModelFiles::open(base.path())?;
    let saved = tempfile::tempdir()?;
    for (name, bytes) in files.companions()? {
        std::fs::write(saved.path().join(name), bytes)?;
    }
    let again = BaseModelFiles::open(saved.path())?;
    ensure!(again.tokenizer().digest() == files.tokenizer().digest());
    let text = "Grüße <|extra|> <s>";
    ensure!(again.tokenizer().encode(text)? == files.tokenizer().encode(text)?);
    Ok(())
}

#[test]
fn the_older_tokenizer_counts_for_the_digest_only_where_it_is_read() -> Result<()> {
    let base = base()?;
    let digest = || -> Result<String> { Ok(BaseModelFiles::open(base.path())?.digest()?) };
    let first = digest()?;
    let added = base.path().join("added_tokens.json");
    std::fs::write(&added, "{\"<|extra|>\": 700}\n\n")?;
    let second = digest()?;
    ensure!(first != second);
    copy(&fixtures().join("tiny-llama"), base.path())?;
    let newer = digest()?;
    std::fs::remove_file(added)?;
    std::fs::write(base.path().join("tokenizer.model"), "not read")?;
    ensure!(newer == digest()? && newer != second);
    Ok(())
}
