//! Where a turn ends, found from the template: what is trained there, and what ends an answer.

use std::path::Path;

use anyhow::{Context, Result};
use finetune_artifacts::rows::RowReader;
use finetune_crds::fine_tune_job::{ChatTemplateUse, Format, LossOn};
use finetune_dataset::tokenize::Tokenizer;
use finetune_dataset::{Encoder, EncoderSettings};
use rstest::rstest;
use serde_json::{Value, json};

use crate::fixtures;

/// ChatML whose calls stand between two tokens of their own.
const CALLS: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content %}{{ m.content }}{% endif %}\
    {% if m.tool_calls %}{% for c in m.tool_calls %}<|call|>{{ c.function | tojson }}<|/call|>{% endfor %}{% endif %}\
    <|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The tiny tokenizer with a template, more tokens and another end of sequence.
fn tokenizer(template: &str, added: &[&str], special: bool, eos: &str) -> Result<Tokenizer> {
    let folder = tempfile::tempdir()?;
    let read = |name: &str| -> Result<Value> {
        let path = fixtures().join("tiny-llama").join(name);
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    };
    let write =
        |name: &str, value: &Value| std::fs::write(folder.path().join(name), value.to_string());
    let mut json = read("tokenizer.json")?;
    let vocabulary = json["model"]["vocab"]
        .as_object()
        .context("no vocabulary")?;
    let tokens = json["added_tokens"].as_array().context("no tokens")?;
    let ids = tokens.iter().filter_map(|token| token["id"].as_u64());
    let next = vocabulary
        .values()
        .filter_map(Value::as_u64)
        .chain(ids)
        .max()
        .context("empty")?
        + 1;
    let list = json["added_tokens"].as_array_mut().context("no tokens")?;
    for (content, id) in added.iter().zip(next..) {
        list.push(json!({
            "id": id, "content": content, "special": special,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        }));
    }
    write("tokenizer.json", &json)?;
    let mut config = read("tokenizer_config.json")?;
    config["eos_token"] = eos.into();
    config["chat_template"] = template.into();
    write("tokenizer_config.json", &config)?;
    Ok(Tokenizer::from_directory(folder.path())?)
}

fn learnt(tokenizer: &Tokenizer, row: &Value) -> Result<Vec<String>> {
    let mut reader = RowReader::new(Format::Messages);
    reader.read("train.jsonl", row.to_string().as_bytes())?;
    let row = reader.finish()?.rows.pop().context("no row")?;
    let settings = EncoderSettings {
        loss_on: LossOn::Assistant,
        max_length: 10_000,
        append_end_of_sequence: true,
        chat_template: ChatTemplateUse::Auto,
        day: jiff::civil::Date::constant(2026, 1, 2),
    };
    let encoded = Encoder::new(tokenizer, settings)
        .encode(&row)
        .map_err(anyhow::Error::msg)?;
    let row = &encoded[0].row;
    let mut pieces = Vec::new();
    let mut start = 0;
    for same in row.loss.chunk_by(|left, right| left == right) {
        let tokens = &row.tokens[start..start + same.len()];
        start += same.len();
        if same[0] {
            pieces.push(tokenizer.decode(tokens, false)?);
        }
    }
    Ok(pieces)
}

fn call(article: &str) -> Value {
    json!({ "type": "function", "function": { "name": "stock", "arguments": { "article": article } } })
}

#[rstest]
fn a_call_closed_by_a_special_token_is_learnt_to_the_end_of_the_turn(
    #[values(true, false)] special: bool,
) -> Result<()> {
    let tokenizer = tokenizer(CALLS, &["<|call|>", "<|/call|>"], special, "<|im_end|>")?;
    let row = json!({ "messages": [
        { "role": "user", "content": "How many?" },
        { "role": "assistant", "tool_calls": [call("lamp")] },
        { "role": "tool", "name": "stock", "content": "7" },
        { "role": "assistant", "content": "Seven." },
        { "role": "user", "content": "And chairs?" },
        { "role": "assistant", "content": "Let me look.", "tool_calls": [call("chair"), call("stool")] },
    ] });
    let printed = |article: &str| {
        format!(
            "<|call|>{{\"arguments\": {{\"article\": \"{article}\"}}, \"name\": \"stock\"}}<|/call|>"
        )
    };
    assert_eq!(
        learnt(&tokenizer, &row)?,
        [
            format!("{}<|im_end|>", printed("lamp")),
            "Seven.<|im_end|>".to_owned(),
            format!(
                "Let me look.{}{}<|im_end|>",
                printed("chair"),
                printed("stool")
            ),
        ]
    );
    Ok(())
}

#[test]
fn the_end_of_a_turn_ends_answers_though_the_model_names_another_end() -> Result<()> {
    let tokenizer = tokenizer(CALLS, &["<|call|>", "<|/call|>"], true, "<|endoftext|>")?;
    let id = |token: &str| {
        tokenizer
            .inner()
            .token_to_id(token)
            .context("no such token")
    };
    let (end, eos) = (id("<|im_end|>")?, id("<|endoftext|>")?);
    assert_eq!(tokenizer.named_stop_ids(), [eos]);
    let mut both = [end, eos];
    both.sort_unstable();
    assert_eq!(tokenizer.stop_ids(), both);
    Ok(())
}

#[rstest]
#[case::words_and_calls_end_alike(CALLS, &["<|im_end|>"], &["<|im_end|>"])]
#[case::calls_have_an_end_of_their_own(
    "{% for m in messages %}{{ m.content or '' }}{% if m.tool_calls %}<|call|>{{ m.tool_calls | tojson }}<|/call|>\
     {% else %}<|im_end|>{% endif %}{% endfor %}",
    &["<|/call|>", "<|im_end|>"],
    &["<|/call|>", "<|im_end|>"]
)]
#[case::the_last_turn_has_an_end_of_its_own(
    "{% for m in messages %}{{ m.content }}{% if loop.last %}<|/call|>{% else %}<|im_end|>{% endif %}{% endfor %}",
    &["<|/call|>"],
    &["<|/call|>", "<|im_end|>"]
)]
#[case::what_a_whole_conversation_ends_with_is_no_turns_end(
    "{% for m in messages %}{{ m.content }}<|im_end|>\n{% endfor %}<|/call|>",
    &["<|im_end|>"],
    &["<|im_end|>"]
)]
#[case::nothing_is_printed("{% for m in messages %}{{ m.content }}\n{% endfor %}", &[], &[])]
fn where_a_turn_ends_is_found_from_the_template(
    #[case] template: &str,
    #[case] answer: &[&str],
    #[case] any: &[&str],
) -> Result<()> {
    let tokenizer = tokenizer(template, &["<|call|>", "<|/call|>"], true, "<|endoftext|>")?;
    let ids = |tokens: &[&str]| {
        let ids = tokens
            .iter()
            .filter_map(|token| tokenizer.inner().token_to_id(token));
        let mut ids: Vec<u32> = ids.collect();
        ids.sort_unstable();
        ids
    };
    let end = tokenizer.turn_end();
    assert_eq!(end.map_or(&[][..], |end| &end.answer), ids(answer));
    assert_eq!(end.map_or(&[][..], |end| &end.any), ids(any));
    Ok(())
}

/// The templates of `tests/parity/templates`, which have the features of the families' own.
#[rstest]
#[case("llama3", "<|eot_id|>")]
#[case("qwen2.5", "<|im_end|>")]
#[case("qwen3", "<|im_end|>")]
#[case("gemma", "<end_of_turn>")]
#[case("phi3", "<|end|>")]
#[case("mistral", "</s>")]
#[case("granite", "<|end_of_text|>")]
#[case("olmo2", "</s>")]
fn each_familys_turns_end_is_found(#[case] family: &str, #[case] end: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/templates");
    let template = std::fs::read_to_string(path.join(format!("{family}.jinja")))?;
    let added: &[&str] = match end {
        "<|im_end|>" | "</s>" => &[],
        _ => &[end],
    };
    let eos = if end == "</s>" {
        "<|im_end|>"
    } else {
        "<|endoftext|>"
    };
    let tokenizer = tokenizer(&template, added, true, eos)?;
    let wanted = if end == "</s>" { eos } else { end };
    let id = tokenizer
        .inner()
        .token_to_id(wanted)
        .context("no such token")?;
    assert_eq!(tokenizer.turn_end().context("none found")?.any, [id]);
    Ok(())
}
