//! Tokens and rendered chats are those of transformers (`expected/chat-*.json`).

use anyhow::{Context, Result, ensure};
use finetune_artifacts::gguf::GgufFile;
use finetune_artifacts::rows::Message;
use finetune_dataset::template::{ChatTemplate, Time};
use finetune_dataset::tokenize::Tokenizer;
use serde_json::Value;

use crate::{fixtures, smollm2};

fn expected(name: &str) -> Result<Value> {
    let path = fixtures().join("expected").join(name);
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn messages(row: &Value) -> Result<Vec<Message>> {
    let list = row["messages"].as_array().context("no messages")?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
    list.iter()
        .map(|message| {
            Ok(Message::new(
                text(&message["role"])?,
                text(&message["content"])?,
            ))
        })
        .collect()
}

fn ids(row: &Value) -> Result<Vec<u32>> {
    Ok(serde_json::from_value(row["ids"].clone())?)
}

fn list<'a>(report: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    report[name]
        .as_array()
        .filter(|list| !list.is_empty())
        .with_context(|| format!("no {name}"))
}

fn check_texts(tokenizer: &Tokenizer, report: &Value) -> Result<()> {
    for row in list(report, "texts")? {
        let text = row["text"].as_str().context("no text")?;
        let found = tokenizer.encode(text)?;
        ensure!(
            found == ids(row)?,
            "{text:?}: {found:?}, expected {}",
            row["ids"]
        );
        ensure!(
            tokenizer.encode_with_ranges(text)?.ids == found,
            "{text:?}: other ids with ranges"
        );
        let decoded = tokenizer.decode(&found, false)?;
        ensure!(
            Some(decoded.as_str()) == row["decoded"].as_str(),
            "{text:?} decodes to {decoded:?}"
        );
    }
    Ok(())
}

fn check_chats(tokenizer: &Tokenizer, template: &ChatTemplate, rows: &[Value]) -> Result<()> {
    for row in rows {
        let prompt = row["add_generation_prompt"].as_bool().context("no flag")?;
        let text = template.render(&messages(row)?, &[], prompt)?;
        ensure!(
            Some(text.as_str()) == row["text"].as_str(),
            "{text:?}, expected {}",
            row["text"]
        );
        ensure!(
            tokenizer.encode(&text)? == ids(row)?,
            "{text:?}: other tokens"
        );
    }
    Ok(())
}

fn check_all(tokenizer: &Tokenizer) -> Result<()> {
    let report = expected("chat-tiny-llama.json")?;
    check_texts(tokenizer, &report)?;
    check_chats(tokenizer, tokenizer.template()?, list(&report, "chats")?)?;
    let variables = [("bos_token", "<|im_start|>"), ("eos_token", "<|im_end|>")]
        .map(|(name, token)| (name.to_owned(), token.to_owned()))
        .into();
    let features = report["features_template"]
        .as_str()
        .context("no template")?;
    let template = ChatTemplate::new(features, &variables)?;
    check_chats(tokenizer, &template, list(&report, "features_chats")?)?;

    let marked = report["marked_template"].as_str().context("no template")?;
    let template = ChatTemplate::new(marked, &variables)?;
    for row in list(&report, "marked_chats")? {
        let rendered = template.render_marked(&messages(row)?, &[], false, Time::Clock)?;
        let encoded = tokenizer.encode_with_ranges(&rendered.text)?;
        ensure!(
            encoded.ids == ids(row)?,
            "{:?}: other tokens",
            rendered.text
        );
        let mask: Vec<u32> = encoded
            .ranges
            .iter()
            .map(|range| {
                u32::from(
                    rendered
                        .spans
                        .iter()
                        .any(|span| span.contains(&range.start)),
                )
            })
            .collect();
        let expected: Vec<u32> = serde_json::from_value(row["assistant_mask"].clone())?;
        ensure!(
            mask == expected,
            "{:?}: {mask:?}, expected {expected:?}",
            rendered.text
        );
    }
    Ok(())
}

#[test]
fn a_directory_tokenises_and_renders_as_transformers_does() -> Result<()> {
    check_all(&Tokenizer::from_directory(&fixtures().join("tiny-llama"))?)
}

#[test]
fn a_template_in_a_file_of_its_own_renders_the_same() -> Result<()> {
    check_all(&Tokenizer::from_directory(
        &fixtures().join("tiny-llama-bias"),
    )?)
}

#[test]
fn a_gguf_tokenises_and_renders_as_the_tokenizer_that_it_was_made_from() -> Result<()> {
    let file = GgufFile::open(&fixtures().join("gguf/q4_1.gguf"))?;
    check_all(&Tokenizer::from_gguf(&file)?)
}

#[test]
fn smollm2_tokenises_and_renders_as_transformers_does() -> Result<()> {
    let Some(path) = smollm2() else {
        return Ok(());
    };
    let tokenizer = Tokenizer::from_gguf(&GgufFile::open(&path)?)?;
    let report = expected("chat-smollm2.json")?;
    check_texts(&tokenizer, &report)?;
    check_chats(&tokenizer, tokenizer.template()?, list(&report, "chats")?)?;
    ensure!(tokenizer.stop_ids() == [2], "{:?}", tokenizer.stop_ids());
    Ok(())
}
