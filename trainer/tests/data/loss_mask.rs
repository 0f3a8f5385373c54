//! Which tokens of a row the model is trained to say.

use anyhow::{Context, Result};
use finetune_artifacts::rows::RowReader;
use finetune_crds::fine_tune_job::{ChatTemplateUse, Format, LossOn};
use finetune_dataset::tokenize::Tokenizer;
use finetune_dataset::{EncodedRow, Encoder, EncoderSettings};
use rstest::rstest;

use crate::fixtures;

const CHAT: &str = r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes <b>"},{"role":"user","content":"and"},{"role":"assistant","content":" no "}]}"#;

fn tokenizer() -> Result<Tokenizer> {
    Ok(Tokenizer::from_directory(&fixtures().join("tiny-llama"))?)
}

fn encode(tokenizer: &Tokenizer, row: &str, settings: EncoderSettings) -> Result<EncodedRow> {
    let mut reader = RowReader::new(Format::Auto);
    reader.read("train.jsonl", row.as_bytes())?;
    let row = reader.finish()?.rows.pop().context("no row")?;
    let mut encoded = Encoder::new(tokenizer, settings)
        .encode(&row)
        .map_err(anyhow::Error::msg)?;
    encoded.pop().context("no row of tokens")
}

fn settings(loss_on: LossOn) -> EncoderSettings {
    EncoderSettings {
        loss_on,
        max_length: 1000,
        append_end_of_sequence: true,
        chat_template: ChatTemplateUse::Auto,
        day: jiff::civil::Date::constant(2026, 1, 2),
    }
}

/// The text of the tokens that carry loss, pieces joined by `|`.
fn learnt(tokenizer: &Tokenizer, row: &EncodedRow) -> Result<String> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for same in row.row.loss.chunk_by(|left, right| left == right) {
        let tokens = &row.row.tokens[start..start + same.len()];
        start += same.len();
        if same[0] {
            pieces.push(tokenizer.decode(tokens, false)?);
        }
    }
    Ok(pieces.join("|"))
}

#[rstest]
#[case::every_assistant_turn(LossOn::Assistant, "Yes <b><|im_end|>| no <|im_end|>")]
#[case::the_last_one(LossOn::Completion, " no <|im_end|>")]
fn a_turn_is_trained_with_its_end_and_not_with_what_the_template_prints_after_it(
    #[case] loss_on: LossOn,
    #[case] expected: &str,
) -> Result<()> {
    let tokenizer = tokenizer()?;
    let row = encode(&tokenizer, CHAT, settings(loss_on))?;
    assert_eq!(learnt(&tokenizer, &row)?, expected);
    Ok(())
}

#[test]
fn all_trains_every_token_but_the_first_which_nothing_foretells() -> Result<()> {
    let row = encode(&tokenizer()?, CHAT, settings(LossOn::All))?.row;
    assert!(!row.loss[0]);
    assert_eq!(row.trainable(), row.tokens.len() - 1);
    Ok(())
}

#[test]
fn the_end_of_turn_is_trained_though_the_padding_is_the_same_token() -> Result<()> {
    let tokenizer = tokenizer()?;
    let special = tokenizer.special();
    let (eos, pad) = (
        special.eos.clone().context("no eos")?,
        special.pad.clone().context("no pad")?,
    );
    assert_eq!(
        eos.id, pad.id,
        "the fixture has lost what this test is about"
    );
    let row = encode(&tokenizer, CHAT, settings(LossOn::Assistant))?.row;
    let trained = row
        .tokens
        .iter()
        .zip(&row.loss)
        .filter(|(id, loss)| **id == eos.id && **loss)
        .count();
    assert_eq!(trained, 2);
    Ok(())
}

#[test]
fn an_end_of_turn_inside_a_message_does_not_end_its_training() -> Result<()> {
    let row = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a<|im_end|>b"}]}"#;
    let tokenizer = tokenizer()?;
    let row = encode(&tokenizer, row, settings(LossOn::Assistant))?;
    assert_eq!(learnt(&tokenizer, &row)?, "a<|im_end|>b<|im_end|>");
    Ok(())
}

#[test]
fn a_completion_is_trained_with_the_end_of_sequence_and_its_prompt_is_not() -> Result<()> {
    let tokenizer = tokenizer()?;
    let settings = |loss_on| EncoderSettings {
        chat_template: ChatTemplateUse::Never,
        ..settings(loss_on)
    };
    let row = r#"{"prompt":"Re: ","completion":" Hello"}"#;
    let found = encode(&tokenizer, row, settings(LossOn::Completion))?;
    assert_eq!(learnt(&tokenizer, &found)?, " Hello<|im_end|>");
    let mut apart = tokenizer.encode("Re: ")?;
    apart.extend(tokenizer.encode(" Hello")?);
    assert_eq!(
        found.row.tokens[..apart.len()],
        apart,
        "the border must not be merged over"
    );

    let ended = r#"{"prompt":"Re: ","completion":" Hello<|im_end|>"}"#;
    assert_eq!(
        encode(&tokenizer, ended, settings(LossOn::Completion))?,
        found,
        "no second end"
    );
    Ok(())
}

#[test]
fn text_is_trained_whole_with_an_end_unless_told_otherwise() -> Result<()> {
    let tokenizer = tokenizer()?;
    let row = r#"{"text":"Hello"}"#;
    let with = encode(&tokenizer, row, settings(LossOn::All))?.row;
    let without = EncoderSettings {
        append_end_of_sequence: false,
        ..settings(LossOn::All)
    };
    let without = encode(&tokenizer, row, without)?.row;
    assert_eq!(with.tokens.len(), without.tokens.len() + 1);
    assert_eq!(with.tokens.last(), Some(&2));
    Ok(())
}

#[test]
fn a_long_row_is_cut_on_the_right() -> Result<()> {
    let tokenizer = tokenizer()?;
    let whole = encode(&tokenizer, CHAT, settings(LossOn::Assistant))?;
    assert!(!whole.truncated);
    let short = EncoderSettings {
        max_length: 30,
        ..settings(LossOn::Assistant)
    };
    let cut = encode(&tokenizer, CHAT, short)?;
    assert!(cut.truncated);
    assert_eq!(cut.row.tokens, whole.row.tokens[..30]);
    assert_eq!(cut.row.loss, whole.row.loss[..30]);
    Ok(())
}

#[test]
fn a_conversation_may_begin_with_the_assistant() -> Result<()> {
    let row = r#"{"messages":[{"role":"assistant","content":"Hello"},{"role":"user","content":"Hello"},{"role":"assistant","content":"Yes"}]}"#;
    let tokenizer = tokenizer()?;
    let row = encode(&tokenizer, row, settings(LossOn::Assistant))?;
    assert_eq!(learnt(&tokenizer, &row)?, "Hello<|im_end|>|Yes<|im_end|>");
    Ok(())
}

#[rstest]
#[case::the_others_are_trained(LossOn::Assistant, 1, " no <|im_end|>")]
#[case::the_last_one_is_not_if_it_has_none(LossOn::Completion, 3, "")]
fn a_message_of_weight_0_is_not_trained(
    #[case] loss_on: LossOn,
    #[case] index: usize,
    #[case] expected: &str,
) -> Result<()> {
    let tokenizer = tokenizer()?;
    let row = encode(&tokenizer, &without_weight(index), settings(loss_on))?;
    assert_eq!(learnt(&tokenizer, &row)?, expected);
    let marked = with_template(MARKED)?;
    let row = encode(&marked, &without_weight(index), settings(loss_on))?;
    assert_eq!(learnt(&marked, &row)?, expected);
    Ok(())
}

#[test]
fn all_leaves_out_a_message_of_weight_0() -> Result<()> {
    let tokenizer = tokenizer()?;
    let row = encode(&tokenizer, &without_weight(1), settings(LossOn::All))?;
    let learnt = learnt(&tokenizer, &row)?;
    assert!(
        learnt.ends_with("<|im_start|>assistant\n|\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n no <|im_end|>\n"),
        "{learnt}"
    );
    Ok(())
}

/// The chat with a weight of 0 on one message.
fn without_weight(index: usize) -> String {
    let parts: Vec<&str> = CHAT.split('}').collect();
    let (before, after) = parts.split_at(index + 1);
    format!("{},\"weight\":0}}{}", before.join("}"), after.join("}"))
}

#[rstest]
#[case::with_input("a lamp", "Name it.\n\na lamp")]
#[case::without("", "Name it.")]
fn an_alpaca_row_is_asked_through_the_chat_template(
    #[case] input: &str,
    #[case] question: &str,
) -> Result<()> {
    let tokenizer = tokenizer()?;
    let row = format!(r#"{{"instruction":"Name it.","input":"{input}","output":"Lux"}}"#);
    let found = encode(&tokenizer, &row, settings(LossOn::Completion))?;
    let question = serde_json::to_string(question)?;
    let chat = format!(
        r#"{{"messages":[{{"role":"user","content":{question}}},{{"role":"assistant","content":"Lux"}}]}}"#
    );
    assert_eq!(
        found,
        encode(&tokenizer, &chat, settings(LossOn::Completion))?
    );
    assert_eq!(learnt(&tokenizer, &found)?, "Lux<|im_end|>");
    Ok(())
}

#[rstest]
#[case(LossOn::Completion)]
#[case(LossOn::All)]
fn a_prompt_is_asked_through_the_chat_template_as_it_will_be_when_the_model_is_served(
    #[case] loss_on: LossOn,
) -> Result<()> {
    let tokenizer = tokenizer()?;
    let row = r#"{"prompt":"Name it.","completion":"Lux"}"#;
    let chat = r#"{"messages":[{"role":"user","content":"Name it."},{"role":"assistant","content":"Lux"}]}"#;
    let found = encode(&tokenizer, row, settings(loss_on))?;
    assert_eq!(found, encode(&tokenizer, chat, settings(loss_on))?);
    Ok(())
}

#[test]
fn preferences_that_are_texts_are_asked_through_the_chat_template_too() -> Result<()> {
    let tokenizer = tokenizer()?;
    let row = r#"{"prompt":"Name it.","chosen":"Lux","rejected":"Nox"}"#;
    let chat = r#"{"messages":[{"role":"user","content":"Name it."},{"role":"assistant","content":"Nox"}]}"#;
    // The answer that is not preferred comes last.
    let found = encode(&tokenizer, row, settings(LossOn::Completion))?;
    assert_eq!(
        found,
        encode(&tokenizer, chat, settings(LossOn::Completion))?
    );
    Ok(())
}

#[test]
fn a_prompt_without_a_chat_template_is_a_text_that_goes_on() -> Result<()> {
    let tokenizer = without_template()?;
    let row = r#"{"prompt":"Name it.","completion":"Lux"}"#;
    let found = encode(&tokenizer, row, settings(LossOn::Completion))?;
    let text = tokenizer.decode(&found.row.tokens, false)?;
    assert_eq!(text, "Name it.Lux<|im_end|>");
    Ok(())
}

#[test]
fn an_alpaca_row_without_a_chat_template_has_the_prompt_of_its_data_set() -> Result<()> {
    let tokenizer = without_template()?;
    let row = r#"{"instruction":"Name it.","input":"a lamp","output":"Lux"}"#;
    let found = encode(&tokenizer, row, settings(LossOn::Completion))?;
    let text = tokenizer.decode(&found.row.tokens, false)?;
    assert!(text.starts_with("Below is an instruction"), "{text}");
    assert!(
        text.ends_with(
            "### Instruction:\nName it.\n\n### Input:\na lamp\n\n### Response:\nLux<|im_end|>"
        ),
        "{text}"
    );
    assert_eq!(learnt(&tokenizer, &found)?, "Lux<|im_end|>");
    Ok(())
}

#[test]
fn the_turns_before_an_alpaca_instruction_are_seen_and_not_learnt() -> Result<()> {
    let row = r#"{"instruction":"And now?","output":"Lux","system":"Be short.","history":[["Name it.","Lumen"]]}"#;
    let chat = r#"{"messages":[{"role":"system","content":"Be short."},{"role":"user","content":"Name it."},{"role":"assistant","content":"Lumen"},{"role":"user","content":"And now?"},{"role":"assistant","content":"Lux"}]}"#;
    let tokenizer = tokenizer()?;
    let found = encode(&tokenizer, row, settings(LossOn::Completion))?;
    assert_eq!(
        found,
        encode(&tokenizer, chat, settings(LossOn::Completion))?
    );
    assert_eq!(learnt(&tokenizer, &found)?, "Lux<|im_end|>");
    let error = encode(&without_template()?, row, settings(LossOn::Completion)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("(`system`, `history`), which need a chat template"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_document_is_cut_into_rows_that_learn_each_token_once() -> Result<()> {
    let tokenizer = tokenizer()?;
    let text = "The lamp is in the old town. ".repeat(12);
    let mut reader = RowReader::new(Format::Auto);
    reader.read("a.md", text.as_bytes())?;
    let row = reader.finish()?.rows.pop().context("no row")?;
    let settings = EncoderSettings {
        max_length: 40,
        ..settings(LossOn::All)
    };
    let rows = Encoder::new(&tokenizer, settings)
        .encode(&row)
        .map_err(anyhow::Error::msg)?;
    let whole = tokenizer.encode(&text)?;
    assert!(rows.len() > 2);
    let mut learnt = vec![whole[0]];
    for row in &rows {
        assert!(row.row.tokens.len() <= 40 && !row.truncated);
        let tokens = row.row.tokens.iter().zip(&row.row.loss);
        learnt.extend(tokens.filter(|(_, loss)| **loss).map(|(token, _)| *token));
    }
    assert_eq!(learnt[..whole.len()], whole);
    assert_eq!(learnt[whole.len()..], [2], "it ends once");
    Ok(())
}

#[test]
fn a_template_that_rewrites_earlier_turns_is_refused_unless_only_the_last_turn_counts() -> Result<()>
{
    // Prints only the last answer in full, as models that drop their earlier reasoning do.
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}…{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let tokenizer = with_template(template)?;
    let error = encode(&tokenizer, CHAT, settings(LossOn::Assistant))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the chat template leaves out `messages[1]`"),
        "{error}"
    );
    let row = encode(&tokenizer, CHAT, settings(LossOn::Completion))?;
    assert_eq!(learnt(&tokenizer, &row)?, " no <|im_end|>");
    Ok(())
}

const MARKED: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}";

#[test]
fn a_template_with_generation_marks_is_believed() -> Result<()> {
    let tokenizer = with_template(MARKED)?;
    let row = encode(&tokenizer, CHAT, settings(LossOn::Assistant))?;
    assert_eq!(
        learnt(&tokenizer, &row)?,
        "Yes <b><|im_end|>| no <|im_end|>"
    );
    let row = encode(&tokenizer, CHAT, settings(LossOn::Completion))?;
    assert_eq!(learnt(&tokenizer, &row)?, " no <|im_end|>");
    Ok(())
}

#[test]
fn conversations_without_a_template_are_refused_with_the_cure() -> Result<()> {
    let error = encode(&without_template()?, CHAT, settings(LossOn::Assistant))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("has no chat template") && error.contains("format PromptCompletion or Text"),
        "{error}"
    );
    Ok(())
}

fn without_template() -> Result<Tokenizer> {
    let folder = tempfile::tempdir()?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(
            fixtures().join("tiny-llama-bias").join(name),
            folder.path().join(name),
        )?;
    }
    Ok(Tokenizer::from_directory(folder.path())?)
}

#[test]
fn a_start_token_is_added_once_where_the_model_wants_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = fixtures().join("tiny-llama");
    std::fs::copy(
        source.join("tokenizer.json"),
        folder.path().join("tokenizer.json"),
    )?;
    let config = std::fs::read_to_string(source.join("tokenizer_config.json"))?;
    let config = config.replacen('{', "{\"add_bos_token\": true,", 1);
    std::fs::write(folder.path().join("tokenizer_config.json"), config)?;
    let tokenizer = Tokenizer::from_directory(folder.path())?;
    let text = encode(&tokenizer, r#"{"text":"Hi"}"#, settings(LossOn::All))?
        .row
        .tokens;
    assert_eq!(text[0], 1);
    let begun = encode(
        &tokenizer,
        r#"{"text":"<|im_start|>Hi"}"#,
        settings(LossOn::All),
    )?
    .row
    .tokens;
    assert_eq!(begun, text, "no second start");
    let chat = encode(&tokenizer, CHAT, settings(LossOn::Assistant))?
        .row
        .tokens;
    assert_ne!(chat[..2], [1, 1], "the template prints its own start");
    Ok(())
}

fn with_template(template: &str) -> Result<Tokenizer> {
    let folder = tempfile::tempdir()?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(
            fixtures().join("tiny-llama").join(name),
            folder.path().join(name),
        )?;
    }
    std::fs::write(folder.path().join("chat_template.jinja"), template)?;
    Ok(Tokenizer::from_directory(folder.path())?)
}
