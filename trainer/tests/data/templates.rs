//! Templates with the features of each model family's, tools, masks, and every kind of tokenizer, as transformers has them
//! (`expected/templates.json`, `expected/tokenizer-kinds.json`).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use finetune_artifacts::rows::{Conversation, Message, Row, RowContent, RowReader};
use finetune_crds::fine_tune_job::{ChatTemplateUse, Format, LossOn};
use finetune_dataset::template::ChatTemplate;
use finetune_dataset::tokenize::Tokenizer;
use finetune_dataset::{Encoder, EncoderSettings};
use rstest::rstest;
use serde::Deserialize;
use serde_json::json;

use crate::fixtures;

#[derive(Deserialize)]
struct Family {
    kind: String,
    bos: Option<String>,
    eos: String,
    marked: String,
    plain: String,
    cases: Vec<Case>,
    refused: Option<Refused>,
}

#[derive(Deserialize)]
struct Case {
    row: String,
    text: String,
    prompt: String,
    ids: Vec<u32>,
    mask: String,
}

#[derive(Deserialize)]
struct Refused {
    row: String,
    words: String,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

fn expected<T: serde::de::DeserializeOwned>(name: &str) -> Result<T> {
    let path = fixtures().join("expected").join(name);
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn family(name: &str) -> Result<Family> {
    let mut families: BTreeMap<String, Family> = expected("templates.json")?;
    families.remove(name).with_context(|| format!("no {name}"))
}

impl Family {
    fn tokenizer(&self, template: &str) -> Result<Tokenizer> {
        let folder = tempfile::tempdir()?;
        let source = fixtures().join("tokenizers").join(&self.kind);
        std::fs::copy(
            source.join("tokenizer.json"),
            folder.path().join("tokenizer.json"),
        )?;
        let config =
            json!({ "bos_token": self.bos, "eos_token": self.eos, "chat_template": template });
        std::fs::write(
            folder.path().join("tokenizer_config.json"),
            config.to_string(),
        )?;
        Ok(Tokenizer::from_directory(folder.path())?)
    }
}

fn row(text: &str) -> Result<Row> {
    let mut reader = RowReader::new(Format::Messages);
    reader.read("train.jsonl", text.as_bytes())?;
    reader.finish()?.rows.pop().context("no row")
}

fn conversation(row: &Row) -> Result<&Conversation> {
    match &row.content {
        RowContent::Messages(conversation) => Some(conversation),
        _ => None,
    }
    .context("no conversation")
}

const SETTINGS: EncoderSettings = EncoderSettings {
    loss_on: LossOn::Assistant,
    max_length: 100_000,
    append_end_of_sequence: true,
    chat_template: ChatTemplateUse::Auto,
    day: jiff::civil::Date::constant(2026, 1, 2),
};

#[rstest]
fn a_familys_template_renders_tokenises_and_masks_as_transformers_does(
    #[values(
        "llama3", "qwen2.5", "qwen3", "mistral", "gemma", "phi3", "granite", "olmo2"
    )]
    name: &str,
) -> Result<()> {
    let family = family(name)?;
    ensure!(family.cases.len() >= 3);
    for (kind, template) in [("marked", &family.marked), ("plain", &family.plain)] {
        let tokenizer = family.tokenizer(template)?;
        let encoder = Encoder::new(&tokenizer, SETTINGS);
        for case in &family.cases {
            let row = row(&case.row)?;
            let conversation = conversation(&row)?;
            let rendered =
                tokenizer
                    .template()?
                    .render(&conversation.messages, &conversation.tools, false)?;
            ensure!(
                rendered == case.text,
                "{kind}: {rendered:?}, expected {:?}",
                case.text
            );

            let asked = conversation
                .messages
                .iter()
                .rposition(|message| message.role == "assistant")
                .context("nobody answers")?;
            let prompt = tokenizer.template()?.render(
                &conversation.messages[..asked],
                &conversation.tools,
                true,
            )?;
            ensure!(
                prompt == case.prompt,
                "{kind}: {prompt:?}, expected {:?}",
                case.prompt
            );

            let encoded = encoder.encode(&row).map_err(anyhow::Error::msg)?;
            ensure!(encoded.len() == 1);
            let encoded = &encoded[0].row;
            ensure!(
                encoded.tokens == case.ids,
                "{kind}: other tokens of {rendered:?}"
            );
            let mask: String = encoded
                .loss
                .iter()
                .map(|loss| if *loss { '1' } else { '0' })
                .collect();
            if mask != case.mask {
                let shown = |mask: &str| -> Result<String> {
                    let pairs = case.ids.iter().zip(mask.chars());
                    let ids: Vec<u32> = pairs
                        .filter(|(_, flag)| *flag == '1')
                        .map(|(id, _)| *id)
                        .collect();
                    Ok(tokenizer.decode(&ids, false)?)
                };
                anyhow::bail!(
                    "{kind}: {:?} is trained, expected {:?}, of {rendered:?}",
                    shown(&mask)?,
                    shown(&case.mask)?
                );
            }
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct PartsCase {
    template: String,
    row: String,
    text: String,
}

#[test]
fn content_in_parts_is_a_list_to_templates_that_print_lists_and_one_text_to_others() -> Result<()> {
    let cases: Vec<PartsCase> = expected("content-parts.json")?;
    ensure!(cases.len() >= 6);
    for case in cases {
        let template = ChatTemplate::new(&case.template, &BTreeMap::new())?;
        let row = row(&case.row)?;
        let rendered = template.render(&conversation(&row)?.messages, &[], false)?;
        ensure!(
            rendered == case.text,
            "{rendered:?}, expected {:?}",
            case.text
        );
    }
    Ok(())
}

#[derive(Deserialize)]
struct Jinja {
    template: String,
    text: Option<String>,
}

#[test]
fn python_in_templates_prints_and_refuses_what_it_does_in_transformers() -> Result<()> {
    let cases: Vec<Jinja> = expected("jinja.json")?;
    ensure!(cases.len() > 150);
    let mut calling = Message::new("assistant", "");
    calling.content = None;
    let mut faults = Vec::new();
    for case in cases {
        let rendered = ChatTemplate::new(&case.template, &BTreeMap::new())
            .and_then(|template| template.render(&[calling.clone()], &[], false));
        if rendered.as_ref().ok() != case.text.as_ref() {
            faults.push(format!(
                "{}\n  {rendered:?}\n  expected {:?}",
                case.template, case.text
            ));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// A turn that calls, and how templates print it.
fn calling(content: Option<&str>, arguments: serde_json::Value) -> Result<Row> {
    let mut turn = json!({ "role": "assistant", "tool_calls": [
        { "type": "function", "function": { "name": "stock", "arguments": arguments } },
    ] });
    if let Some(content) = content {
        turn["content"] = content.into();
    }
    row(&json!({ "messages": [{ "role": "user", "content": "How many?" }, turn] }).to_string())
}

/// Prints what is there.
const PLAIN: &str = "{% for m in messages %}{{ m['content'] }}{% for c in m.tool_calls or [] %}<{{ c.function | tojson }}>{% endfor %}{% endfor %}";
/// Prints it by a method that knows no undefined.
const BY_METHOD: &str = "{% for m in messages %}{{ m.get('content') }}{% for c in m.tool_calls or [] %}<{{ c.function | tojson }}>{% endfor %}{% endfor %}";
/// Asks for none, and adds arguments to a text, as templates of DeepSeek do.
const ADDS: &str = "{% for m in messages %}{% if m['content'] is none %}{% for c in m['tool_calls'] %}{{ '<' + c['function']['name'] + ' ' + c['function']['arguments'] + '>' }}{% endfor %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}";
/// Goes through arguments, as templates with tags do.
const GOES_THROUGH: &str = "{% for m in messages %}{{ m['content'] }}{% for c in m.tool_calls or [] %}<{{ c.function.name }}{% for k, v in c.function.arguments | items %} {{ k }}={{ v }}{% endfor %}>{% endfor %}{% endfor %}";
/// Takes either.
const EITHER: &str = "{% for m in messages %}{{ m['content'] }}{% for c in m.tool_calls or [] %}<{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}>{% endfor %}{% endfor %}";

#[rstest]
#[case::plain(PLAIN, json!({ "of": "lamp" }), r#"How many?<{"arguments": {"of": "lamp"}, "name": "stock"}>"#)]
#[case::plain_text(PLAIN, json!(r#"{"of":"lamp"}"#), r#"How many?<{"arguments": {"of": "lamp"}, "name": "stock"}>"#)]
#[case::by_method(BY_METHOD, json!({ "of": "lamp" }), r#"How many?<{"arguments": {"of": "lamp"}, "name": "stock"}>"#)]
#[case::adds(ADDS, json!({ "of": "lamp" }), r#"How many?<stock {"of": "lamp"}>"#)]
#[case::adds_text(ADDS, json!(r#"{"of":"lamp"}"#), r#"How many?<stock {"of":"lamp"}>"#)]
#[case::goes_through(GOES_THROUGH, json!({ "of": "lamp" }), "How many?<stock of=lamp>")]
#[case::goes_through_text(GOES_THROUGH, json!(r#"{"of":"lamp"}"#), "How many?<stock of=lamp>")]
#[case::either(EITHER, json!({ "of": "lamp" }), r#"How many?<{"of": "lamp"}>"#)]
#[case::either_text(EITHER, json!(r#"{"of":"lamp"}"#), r#"How many?<{"of":"lamp"}>"#)]
fn a_turn_that_only_calls_is_printed_in_whichever_form_it_is_given_and_never_as_none(
    #[case] template: &str,
    #[case] arguments: serde_json::Value,
    #[case] expected: &str,
    #[values(None, Some(""))] content: Option<&str>,
) -> Result<()> {
    let template = ChatTemplate::new(template, &BTreeMap::new())?;
    let row = calling(content, arguments)?;
    let rendered = template.render(&conversation(&row)?.messages, &[], false)?;
    ensure!(rendered == expected, "{rendered:?}, expected {expected:?}");
    Ok(())
}

#[rstest]
fn a_familys_template_refuses_what_it_refuses_in_transformers(
    #[values("llama3", "mistral", "gemma")] name: &str,
) -> Result<()> {
    let family = family(name)?;
    let refused = family.refused.as_ref().context("refuses nothing")?;
    let tokenizer = family.tokenizer(&family.plain)?;
    let error = Encoder::new(&tokenizer, SETTINGS)
        .encode(&row(&refused.row)?)
        .unwrap_err()
        .to_string();
    ensure!(error.contains(&refused.words), "{error}");
    Ok(())
}

#[rstest]
fn every_kind_of_tokenizer_gives_the_ids_of_transformers(
    #[values("byte-level", "byte-fallback", "byte-fallback-split", "unigram")] kind: &str,
) -> Result<()> {
    let mut kinds: BTreeMap<String, Vec<Text>> = expected("tokenizer-kinds.json")?;
    let tokenizer = Tokenizer::from_directory(&fixtures().join("tokenizers").join(kind))?;
    for row in kinds.remove(kind).context("no such kind")? {
        let found = tokenizer.encode(&row.text)?;
        ensure!(
            found == row.ids,
            "{:?}: {found:?}, expected {:?}",
            row.text,
            row.ids
        );
        let decoded = tokenizer.decode(&found, false)?;
        ensure!(
            decoded == row.decoded,
            "{:?} decodes to {decoded:?}",
            row.text
        );
    }
    Ok(())
}
