//! What a chat template does to the rows of a data set: what it leaves out, how it asks, which day it prints.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::store::Store;
use rstest::rstest;
use serde_json::{Value, json};
use trainer::base::BaseModelFiles;
use trainer::prepare::{self, Error, Prepared, Request};

use crate::fixtures;

/// A copy of the tiny base with another template, and what is prepared from it.
struct Work {
    folder: tempfile::TempDir,
    base: BaseModelFiles,
}

impl Work {
    fn new(template: Option<&str>, eos: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let base = folder.path().join("base");
        std::fs::create_dir(&base)?;
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(fixtures().join("tiny-llama").join(name), base.join(name))?;
        }
        let config = base.join("tokenizer_config.json");
        let mut keys: Value = serde_json::from_slice(&std::fs::read(&config)?)?;
        keys["eos_token"] = eos.into();
        if let Some(template) = template {
            keys["chat_template"] = template.into();
        }
        std::fs::write(config, keys.to_string())?;
        let base = BaseModelFiles::open(&base)?;
        Ok(Self { folder, base })
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    fn prepare(&self, rows: &Path, dataset: &Value, today: &str) -> Result<Prepared, Error> {
        let mut dataset = dataset.clone();
        dataset["train"] = json!([{ "uri": format!("file://{}", rows.display()) }]);
        let spec = json!({
            "baseModel": { "uri": "file:///base/" }, "dataset": dataset, "method": { "lora": {} },
        });
        let credentials = Credentials::default();
        let passing = format!("file://{}/passing/", self.folder.path().display());
        let request = Request {
            spec: &serde_json::from_value(spec).unwrap(),
            base: &self.base,
            credentials: &credentials,
            cache: &Cache::new(&self.folder.path().join("cache")),
            passing: &Store::open(&passing, &credentials)?,
            local: self.folder.path(),
            today: today.parse().unwrap(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(prepare::prepare(&request))
    }

    fn of(&self, rows: &[Value], dataset: &Value) -> Result<Prepared> {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        let path = self.write("rows.jsonl", &lines.join("\n"))?;
        Ok(self.prepare(&path, dataset, "2026-01-02")?)
    }
}

/// ChatML that opens a thought when it asks, and prints none.
const OPENS: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}";
/// ChatML, and the day.
const DATED: &str = "{{ strftime_now('%d %B %Y') }}\n{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const END: &str = "<|im_end|>";

fn chat(question: &str, answer: &str) -> Value {
    json!({ "messages": [
        { "role": "user", "content": question }, { "role": "assistant", "content": answer },
    ] })
}

fn tells(prepared: &Prepared, words: &[&str]) -> Result<()> {
    let warnings = &prepared.report.warnings;
    let told = |warning: &String| words.iter().all(|word| warning.contains(word));
    ensure!(
        warnings.iter().any(told),
        "{words:?} is not in {warnings:?}"
    );
    Ok(())
}

#[test]
fn a_prompt_that_ends_in_what_no_row_has_before_an_answer_is_told() -> Result<()> {
    let work = Work::new(Some(OPENS), END)?;
    let rows = [chat("Which?", "The east gate."), chat("When?", "At nine.")];
    let prepared = work.of(&rows, &json!({}))?;
    tells(
        &prepared,
        &[
            "in 2 of 2 rows",
            "<think>\\n",
            "does not begin as it is asked for",
        ],
    )
}

#[test]
fn a_prompt_that_stands_before_the_answers_is_not_told_of() -> Result<()> {
    let work = Work::new(None, END)?;
    let prepared = work.of(
        &[chat("Which?", "The east gate.")],
        &json!({ "maxSequenceLength": 128 }),
    )?;
    ensure!(
        prepared.report.warnings.is_empty(),
        "{:?}",
        prepared.report.warnings
    );
    Ok(())
}

#[test]
fn a_thought_that_the_template_would_drop_is_refused_with_its_line() -> Result<()> {
    let work = Work::new(Some(OPENS), END)?;
    let rows = [
        chat("Which?", "East."),
        chat("How many?", "<think>Seven less two.</think>Five."),
    ];
    let error = work
        .of(&rows, &json!({}))
        .err()
        .context("it is taken")?
        .to_string();
    ensure!(
        error.contains("rows.jsonl line 2: template_refused: the chat template leaves out the reasoning in `messages[1].content`"),
        "{error}"
    );
    Ok(())
}

#[test]
fn tools_that_the_template_does_not_print_are_told_with_the_first_line() -> Result<()> {
    let work = Work::new(None, END)?;
    let mut row = chat("Which?", "East.");
    row["tools"] =
        json!([{ "type": "function", "function": { "name": "stock", "description": "counts" } }]);
    let prepared = work.of(&[chat("When?", "At nine."), row], &json!({}))?;
    tells(
        &prepared,
        &[
            "the chat template leaves out `tools` in 1 of 2 rows",
            "rows.jsonl line 2",
        ],
    )
}

#[test]
fn an_end_of_turns_that_the_base_does_not_name_is_told_with_a_way_to_end_answers() -> Result<()> {
    let work = Work::new(None, "<|endoftext|>")?;
    let prepared = work.of(&[chat("Which?", "East.")], &json!({}))?;
    ensure!(prepared.report.rows_without_end == 0);
    tells(
        &prepared,
        &["ends a turn with <|im_end|>", "stop: [\"<|im_end|>\"]"],
    )
}

#[test]
fn the_day_that_a_template_prints_stays_when_the_data_is_prepared_again() -> Result<()> {
    let work = Work::new(Some(DATED), END)?;
    let rows = work.write("rows.jsonl", &chat("Which?", "East.").to_string())?;
    let first = work.prepare(&rows, &json!({}), "2026-01-02")?;
    let again = work.prepare(&rows, &json!({}), "2026-03-04")?;
    ensure!(
        first.report.day.as_deref() == Some("2026-01-02"),
        "{:?}",
        first.report.day
    );
    ensure!(first == again, "tokens or their digest depend on the day");
    let text = work
        .base
        .tokenizer()
        .decode(&first.train[0].tokens, false)?;
    ensure!(text.starts_with("02 January 2026\n"), "{text}");

    let other = Work::new(Some(DATED), END)?;
    let later = other.prepare(&rows, &json!({}), "2026-03-04")?;
    ensure!(later.report.tokens_digest != first.report.tokens_digest);
    Ok(())
}

#[rstest]
#[case::a_prompt(json!({ "prompt": "Which?", "completion": "East." }), &["each prompt goes through the base's chat template"])]
#[case::a_prompt_with_special_tokens(
    json!({ "prompt": "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n", "completion": "East." }),
    &["hold special tokens", "dataset.chatTemplate: Never"]
)]
#[case::texts_alone(json!({ "text": "The east gate opens first." }), &["all rows are texts", "not to answer"])]
fn what_rows_that_are_no_conversations_mean_to_a_base_that_is_asked_is_told(
    #[case] row: Value,
    #[case] words: &[&str],
) -> Result<()> {
    let report = Work::new(None, END)?
        .of(&[row], &json!({}))?
        .report
        .to_text();
    for word in words {
        ensure!(report.contains(word), "{word:?} is not in {report}");
    }
    Ok(())
}

#[test]
fn conversations_cannot_do_without_the_chat_template() -> Result<()> {
    let work = Work::new(None, END)?;
    let never = json!({ "chatTemplate": "Never" });
    let error = work
        .of(&[chat("Which?", "East.")], &never)
        .err()
        .context("it is taken")?;
    ensure!(
        error.to_string().contains("dataset.chatTemplate is Never"),
        "{error}"
    );
    Ok(())
}

#[test]
fn the_default_use_of_the_chat_template_changes_no_digest_of_a_spec() {
    let digest = |dataset: Value| {
        let spec = json!({
            "baseModel": { "uri": "file:///base/" }, "dataset": dataset, "method": { "lora": {} },
        });
        let spec: finetune_crds::FineTuneJobSpec = serde_json::from_value(spec).unwrap();
        spec.digest()
    };
    let plain = digest(json!({ "train": [] }));
    let auto = digest(json!({ "train": [], "chatTemplate": "Auto" }));
    let never = digest(json!({ "train": [], "chatTemplate": "Never" }));
    assert_eq!(plain, auto);
    assert_ne!(plain, never);
}

/// The example as a table with two columns, with the manifest of the pages.
#[test]
fn the_example_as_csv_is_tokenised_as_the_example_itself() -> Result<()> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/support/train.jsonl")
        .canonicalize()?;
    let mut table = "question,answer\n".to_owned();
    let quoted = |value: &Value| format!("\"{}\"", value.as_str().unwrap().replace('"', "\"\""));
    for line in std::fs::read_to_string(&example)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let messages = row["messages"].as_array().context("no messages")?;
        ensure!(messages.len() == 2, "{line}");
        let (question, answer) = (&messages[0]["content"], &messages[1]["content"]);
        table.extend([quoted(question), ",".into(), quoted(answer), "\n".into()]);
    }
    let of_messages = Work::new(None, END)?;
    let messages = of_messages.prepare(&example, &json!({}), "2026-01-02")?;
    let of_table = Work::new(None, END)?;
    let path = of_table.write("faq.csv", &table)?;
    let columns = json!({ "columns": { "prompt": "question", "completion": "answer" } });
    let pairs = of_table.prepare(&path, &columns, "2026-01-02")?;
    ensure!(pairs.report.dataset.format == "PromptCompletion");
    ensure!(pairs.train.len() > 200 && pairs.train == messages.train);

    let mut glued = columns;
    glued["chatTemplate"] = "Never".into();
    let glued = Work::new(None, END)?.prepare(&path, &glued, "2026-01-02")?;
    ensure!(glued.train != messages.train);
    Ok(())
}

/// Where one row is enough to tell, the others are not tried: all of them would take hours.
#[test]
fn a_template_that_runs_out_of_fuel_on_a_row_is_at_fault_by_itself() -> Result<()> {
    let endless = "{% if 'spin' in messages[0].content %}{% for a in range(99999) %}{% for b in range(99999) %}\
        {% endfor %}{% endfor %}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}";
    let work = Work::new(Some(endless), END)?;
    let line = format!("{}\n", chat("spin", "a"));
    let rows = work.write("rows.jsonl", &line.repeat(50_000))?;
    let error = work
        .prepare(&rows, &json!({}), "2026-01-02")
        .err()
        .context("it is taken")?;
    ensure!(matches!(error, Error::Template { .. }), "{error}");
    let text = error.to_string();
    ensure!(
        text.contains("rows.jsonl line ") && text.contains("ran out of fuel"),
        "{text}"
    );
    Ok(())
}
