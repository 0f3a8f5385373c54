//! A prepared set: what is made of files, what is refused, and what is read back.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::store::Store;
use finetune_crds::FineTuneJobSpec;
use finetune_crds::contract::OutcomeReason;
use serde_json::{Value, json};
use trainer::base::BaseModelFiles;
use trainer::prepare::{self, Error, Prepared, Request};

use crate::{fixtures, smollm2};

struct Work {
    folder: tempfile::TempDir,
    base: BaseModelFiles,
    today: jiff::civil::Date,
}

impl Work {
    fn new() -> Result<Self> {
        Ok(Self {
            folder: tempfile::tempdir()?,
            base: BaseModelFiles::open(&fixtures().join("tiny-llama"))?,
            today: jiff::civil::date(2026, 1, 2),
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().context("no parent")?)?;
        std::fs::write(&path, text)?;
        Ok(format!("file://{}", path.display()))
    }

    fn run(&self, spec: &FineTuneJobSpec, load: bool) -> Result<Option<Prepared>, Error> {
        let credentials = Credentials::default();
        let passing = Store::open(
            &format!("file://{}/passing/", self.path().display()),
            &credentials,
        )?;
        let request = Request {
            spec,
            base: &self.base,
            credentials: &credentials,
            cache: &Cache::new(&self.path().join("cache")),
            passing: &passing,
            local: self.path(),
            today: self.today,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            if load {
                prepare::load(&request).await
            } else {
                prepare::prepare(&request).await.map(Some)
            }
        })
    }

    fn prepare(&self, dataset: Value) -> Result<Prepared, Error> {
        self.run(&spec(dataset), false).map(Option::unwrap)
    }
}

fn spec(dataset: Value) -> FineTuneJobSpec {
    serde_json::from_value(json!({
        "baseModel": { "uri": "file:///base/" },
        "dataset": dataset,
        "method": { "lora": {} },
    }))
    .unwrap()
}

fn chats(numbers: std::ops::Range<usize>) -> String {
    numbers
        .map(|n| {
            format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"q{n}\"}},{{\"role\":\"assistant\",\"content\":\"a{n}\"}}]}}\n")
        })
        .collect()
}

#[test]
fn what_was_prepared_is_read_back_and_counted() -> Result<()> {
    let work = Work::new()?;
    let uri = work.write("train.jsonl", &(chats(0..40) + &chats(3..5)))?;
    let dataset = json!({ "train": [{ "uri": uri }], "validation": { "fraction": 0.2 } });
    let prepared = work.prepare(dataset.clone())?;
    let report = &prepared.report;
    ensure!(prepared.train.len() + prepared.validation.len() == 42);
    ensure!(
        (2..18).contains(&prepared.validation.len()),
        "{}",
        prepared.validation.len()
    );
    ensure!(report.dataset.rows == prepared.train.len() as i64);
    ensure!(report.dataset.validation_rows == prepared.validation.len() as i64);
    ensure!(report.dataset.format == "Messages");
    let trainable: usize = prepared
        .train
        .iter()
        .map(finetune_dataset::TokenizedRow::trainable)
        .sum();
    ensure!(report.dataset.trainable_tokens == trainable as i64);
    ensure!(report.dataset.duplicate_rows <= 2);

    let loaded = work.run(&spec(dataset), true)?.context("nothing there")?;
    ensure!(loaded == prepared);
    Ok(())
}

#[test]
fn the_report_shows_what_is_learnt_and_what_deserves_a_look() -> Result<()> {
    let work = Work::new()?;
    let long = format!(
        "{{\"messages\":[{{\"role\":\"user\",\"content\":\"q\"}},{{\"role\":\"assistant\",\"content\":\"{}\"}}]}}\n",
        "z".repeat(100)
    );
    let unweighted = "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\",\"weight\":0}]}\n";
    let uri = work.write(
        "train.jsonl",
        &(chats(0..3) + &chats(0..1) + &long + unweighted),
    )?;
    let prepared = work.prepare(json!({ "train": [{ "uri": uri }], "maxSequenceLength": 60 }))?;
    let data = &prepared.report.dataset;
    ensure!(
        (data.rows, data.truncated_rows, data.duplicate_rows) == (5, 1, 1),
        "{data:?}"
    );
    ensure!(prepared.report.rows_without_loss == 1);
    let text = prepared.report.to_text();
    for expected in [
        "5 rows to train on (Messages), 0 to validate with",
        "format Messages, found by the columns of the first row",
        "train.jsonl line 1, what is learnt in «»:",
        "<|im_start|>assistant\n«a0<|im_end|>»",
        "1 of 5 rows are longer than 60 tokens",
        "1 rows have no token to train on and are left out",
        "1 rows repeat an earlier one",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    Ok(())
}

#[test]
fn rows_that_do_not_teach_how_to_end_are_told() -> Result<()> {
    let work = Work::new()?;
    let uri = work.write("t.jsonl", "{\"text\":\"abc\"}\n")?;
    let ended = work.prepare(json!({ "train": [{ "uri": uri }] }))?;
    ensure!(ended.report.rows_without_end == 0);
    let other = Work::new()?;
    let open = other.prepare(
        json!({ "train": [{ "uri": uri }], "format": "Text", "appendEndOfSequence": false }),
    )?;
    ensure!(
        open.report
            .to_text()
            .contains("1 of 1 rows do not end with a token that ends an answer")
    );
    Ok(())
}

#[test]
fn a_prefix_means_all_files_below_it_and_a_malformed_row_is_named_with_its_file() -> Result<()> {
    let work = Work::new()?;
    work.write("data/b/2.jsonl", &chats(5..7))?;
    work.write("data/a.jsonl", &chats(0..3))?;
    let uri = format!("file://{}/data/", work.path().display());
    let dataset = json!({ "train": [{ "uri": uri }] });
    ensure!(work.prepare(dataset.clone())?.train.len() == 5);

    work.write("data/b/2.jsonl", &(chats(5..7) + "{\"messages\":[]}\n"))?;
    let error = work.prepare(dataset).unwrap_err();
    ensure!(error.reason() == OutcomeReason::InvalidInput);
    let expected = format!("{uri}b/2.jsonl line 3: missing_messages_list: `messages` is empty");
    ensure!(error.to_string().starts_with(&expected), "{error}");
    Ok(())
}

#[test]
fn a_set_made_for_another_manifest_or_tokenizer_is_refused() -> Result<()> {
    let mut work = Work::new()?;
    let uri = work.write("train.jsonl", &chats(0..4))?;
    let dataset = json!({ "train": [{ "uri": uri }] });
    ensure!(
        work.run(&spec(dataset.clone()), true)?.is_none(),
        "nothing was prepared yet"
    );
    work.prepare(dataset.clone())?;
    let other = json!({ "train": [{ "uri": uri }], "maxSequenceLength": 50 });
    for error in [
        work.run(&spec(other.clone()), true).unwrap_err(),
        work.prepare(other).unwrap_err(),
    ] {
        ensure!(
            error.to_string().contains("was made for another spec"),
            "{error}"
        );
        ensure!(error.reason() == OutcomeReason::InvalidInput);
    }
    let folder = tempfile::tempdir()?;
    for entry in std::fs::read_dir(fixtures().join("tiny-llama"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
    }
    std::fs::write(
        folder.path().join("chat_template.jinja"),
        "{{ messages[0].content }}",
    )?;
    work.base = BaseModelFiles::open(folder.path())?;
    let error = work.run(&spec(dataset), true).unwrap_err();
    ensure!(
        error
            .to_string()
            .contains("another tokenizer or chat template"),
        "{error}"
    );
    Ok(())
}

#[test]
fn data_without_anything_to_learn_is_refused_with_what_to_check() -> Result<()> {
    let work = Work::new()?;
    let empty = work.write("empty.jsonl", "\n")?;
    let error = work
        .prepare(json!({ "train": [{ "uri": empty }] }))
        .unwrap_err();
    ensure!(
        error.to_string().contains("dataset.train holds no row"),
        "{error}"
    );
    let questions = work.write(
        "q.jsonl",
        "{\"messages\":[{\"role\":\"assistant\",\"content\":\"q\",\"weight\":0}]}\n",
    )?;
    let error = work
        .prepare(json!({ "train": [{ "uri": questions }] }))
        .unwrap_err();
    ensure!(
        error
            .to_string()
            .contains("not one of the 1 rows has a token to train on"),
        "{error}"
    );
    Ok(())
}

#[test]
fn settings_that_do_not_fit_the_rows_are_refused() -> Result<()> {
    let work = Work::new()?;
    let text = work.write("t.jsonl", "{\"text\":\"abc\"}\n")?;
    let error = work
        .prepare(json!({ "train": [{ "uri": text }], "lossOn": "Assistant" }))
        .unwrap_err();
    ensure!(error.to_string().contains("dataset.lossOn"), "{error}");
    let chat = work.write("c.jsonl", &chats(0..1))?;
    let error = work
        .prepare(json!({ "train": [{ "uri": chat }], "appendEndOfSequence": true }))
        .unwrap_err();
    ensure!(
        error.to_string().contains("dataset.appendEndOfSequence"),
        "{error}"
    );
    Ok(())
}

#[test]
fn validation_files_of_their_own_are_read_and_leaks_are_told() -> Result<()> {
    let work = Work::new()?;
    let train = work.write("train.jsonl", &chats(0..4))?;
    let validation = work.write("validation.jsonl", &chats(3..6))?;
    let prepared = work.prepare(json!({
        "train": [{ "uri": train }],
        "validation": { "sources": [{ "uri": validation }] },
    }))?;
    ensure!((prepared.train.len(), prepared.validation.len()) == (4, 3));
    ensure!(prepared.report.leaked_rows == 1);
    ensure!(
        prepared
            .report
            .to_text()
            .contains("1 validation rows are in the training data too")
    );
    Ok(())
}

#[test]
fn rows_of_any_file_format_are_found_by_name_and_columns() -> Result<()> {
    let work = Work::new()?;
    work.write("data/a.csv", "question,answer\nq1,a1\n\"q, 2\",a2\n")?;
    work.write("data/b.json", "[{\"question\":\"q3\",\"answer\":\"a3\"}]")?;
    let uri = format!("file://{}/data/", work.path().display());
    let prepared = work.prepare(json!({
        "train": [{ "uri": uri }],
        "columns": { "prompt": "question", "completion": "answer" },
    }))?;
    ensure!(prepared.report.dataset.format == "PromptCompletion");
    ensure!(prepared.train.len() == 3);
    Ok(())
}

#[test]
fn what_an_alpaca_row_says_before_its_instruction_is_in_the_conversation() -> Result<()> {
    let work = Work::new()?;
    let uri = work.write(
        "train.json",
        r#"[{"instruction":"And in winter?","output":"Less.","system":"A gardener.","history":[["How often?","Weekly."]],"id":7,"source":""}]"#,
    )?;
    let prepared = work.prepare(json!({ "train": [{ "uri": uri }] }))?;
    let report = prepared.report.to_text();
    let at = |text: &str| {
        report
            .find(text)
            .with_context(|| format!("{text} in: {report}"))
    };
    ensure!(at("A gardener.")? < at("How often?")?, "{report}");
    ensure!(at("How often?")? < at("Weekly.")?, "{report}");
    ensure!(at("Weekly.")? < at("And in winter?")?, "{report}");
    ensure!(
        report.contains("«Less.") && !report.contains("«Weekly."),
        "{report}"
    );
    ensure!(
        report.contains("warning: nothing reads the column `id`, which up to 1 rows have"),
        "{report}"
    );
    Ok(())
}

#[test]
fn columns_that_nothing_reads_are_told_of_for_every_kind_of_source() -> Result<()> {
    let work = Work::new()?;
    let with =
        |name: &str| chats(0..3).replace("{\"messages\"", &format!("{{\"{name}\":1,\"messages\""));
    let train = work.write("train.jsonl", &with("a"))?;
    let validation = work.write("validation.jsonl", &with("b"))?;
    let general = work.write("general.jsonl", &with("c").replace('q', "r"))?;
    let prepared = work.prepare(json!({
        "train": [{ "uri": train }],
        "validation": { "sources": [{ "uri": validation }] },
        "replay": { "sources": [{ "uri": general }], "fraction": 0.5 },
    }))?;
    let expected = "nothing reads the columns `a`, `b`, `c`, which up to 3 rows have";
    ensure!(
        prepared
            .report
            .warnings
            .iter()
            .any(|warning| warning == expected),
        "{:?}",
        prepared.report.warnings
    );
    Ok(())
}

#[test]
fn a_folder_without_its_slash_and_a_file_that_is_no_data_are_refused_with_the_cure() -> Result<()> {
    let work = Work::new()?;
    work.write("data/a.jsonl", &chats(0..3))?;
    let uri = format!("file://{}/data", work.path().display());
    let error = work
        .prepare(json!({ "train": [{ "uri": uri }] }))
        .unwrap_err();
    ensure!(
        error.to_string().contains(&format!(
            "{uri}: is a folder, expected a file: end it in `/`"
        )),
        "{error}"
    );
    ensure!(error.reason() == OutcomeReason::InvalidInput);
    work.write("data/handbook.pdf", "%PDF-1.7\n")?;
    let error = work
        .prepare(json!({ "train": [{ "uri": format!("{uri}/") }] }))
        .unwrap_err();
    ensure!(
        error
            .to_string()
            .contains("handbook.pdf: not_data: the file is a PDF"),
        "{error}"
    );
    Ok(())
}

#[test]
fn documents_become_rows_of_the_longest_length() -> Result<()> {
    let work = Work::new()?;
    work.write("docs/a.md", &"The lamp is in the old town. ".repeat(30))?;
    work.write("docs/b.txt", "short")?;
    let uri = format!("file://{}/docs/", work.path().display());
    let prepared = work.prepare(json!({ "train": [{ "uri": uri }], "maxSequenceLength": 50 }))?;
    ensure!(prepared.report.dataset.format == "Text");
    ensure!(prepared.train.len() > 4, "{}", prepared.train.len());
    ensure!(
        prepared.report.dataset.truncated_rows == 0,
        "nothing is cut off"
    );
    let full = prepared
        .train
        .iter()
        .filter(|row| row.tokens.len() == 50)
        .count();
    ensure!(
        full == prepared.train.len() - 2,
        "all but the ends are full"
    );
    Ok(())
}

#[test]
fn general_data_is_mixed_in_at_its_fraction_and_told() -> Result<()> {
    let work = Work::new()?;
    let train = work.write("train.jsonl", &chats(0..30))?;
    let texts: String = (0..50)
        .map(|n| format!("{{\"text\":\"general text {n}\"}}\n"))
        .collect();
    let general = work.write("general.jsonl", &texts)?;
    let dataset = json!({
        "train": [{ "uri": train }],
        "replay": { "sources": [{ "uri": general }], "fraction": 0.25 },
    });
    let prepared = work.prepare(dataset)?;
    ensure!(prepared.report.dataset.replay_rows == 10);
    ensure!(prepared.report.dataset.rows == 40 && prepared.train.len() == 40);
    ensure!(prepared.report.dataset.format == "Messages");
    let whole = |row: &finetune_dataset::TokenizedRow| row.trainable() == row.tokens.len() - 1;
    let places: Vec<usize> = (0..40).filter(|at| whole(&prepared.train[*at])).collect();
    ensure!(places.len() == 10, "{places:?}");
    ensure!(
        places.windows(2).all(|pair| pair[1] - pair[0] == 4),
        "{places:?}"
    );
    ensure!(
        prepared
            .report
            .to_text()
            .contains("10 of the rows are general data")
    );

    let other = Work::new()?;
    let few = other.write("few.jsonl", "{\"text\":\"a b\"}\n{\"text\":\"a b\"}\n")?;
    let train = other.write("train.jsonl", &chats(0..30))?;
    let prepared = other.prepare(json!({
        "train": [{ "uri": train }],
        "replay": { "sources": [{ "uri": few }], "fraction": 0.25 },
    }))?;
    ensure!(prepared.report.dataset.replay_rows == 1);
    ensure!(
        prepared
            .report
            .to_text()
            .contains("dataset.replay asks for 10 rows and its files hold 1"),
        "{}",
        prepared.report.to_text()
    );
    Ok(())
}

#[test]
fn what_is_odd_about_the_data_is_told() -> Result<()> {
    let work = Work::new()?;
    let long = "The warranty of the lamp is five years. The store in the old town opens at nine and closes at half past \
                six. Returns are free within thirty days; the shipping is four euros and ninety cents, and to the islands \
                it is seven.";
    let train = format!(
        "\u{feff}{{\"prompt\":\"q\",\"completion\":\"\"}}\r\n{{\"prompt\":\"q\u{fffd}\",\"completion\":\"a\"}}\r\n{{\"prompt\":\"q\",\"completion\":\"{long}\"}}\n"
    );
    let train = work.write("train.jsonl", &train)?;
    let near = format!(
        "{{\"prompt\":\"Q\",\"completion\":\"{}\"}}\n",
        long.replace("five years", "six years")
    );
    let validation = work.write("validation.jsonl", &near)?;
    let prepared = work.prepare(json!({
        "train": [{ "uri": train }],
        "validation": { "sources": [{ "uri": validation }] },
    }))?;
    let report = &prepared.report;
    ensure!((report.leaked_rows, report.near_duplicate_rows) == (0, 1));
    ensure!(report.dataset.leaked_rows == 1);
    let text = report.to_text();
    for expected in [
        "1 validation rows are nearly the same as one to train on",
        "1 rows have an empty answer",
        "1 rows hold U+FFFD",
        "1 files begin with a byte order mark",
        "1 files have lines that end in CR LF",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    Ok(())
}

#[test]
fn a_missing_file_is_told_as_missing() -> Result<()> {
    let work = Work::new()?;
    let uri = format!("file://{}/absent.jsonl", work.path().display());
    let error = work
        .prepare(json!({ "train": [{ "uri": uri }] }))
        .unwrap_err();
    ensure!(error.reason() == OutcomeReason::NotFound, "{error}");
    ensure!(error.to_string().contains("absent.jsonl"), "{error}");
    Ok(())
}

#[test]
fn the_example_is_ready_for_its_base() -> Result<()> {
    let Some(path) = smollm2() else {
        return Ok(());
    };
    let work = Work {
        folder: tempfile::tempdir()?,
        base: BaseModelFiles::open(&path)?,
        today: jiff::civil::date(2026, 1, 2),
    };
    let rows = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/support/train.jsonl");
    let prepared = work.prepare(json!({
        "train": [{ "uri": format!("file://{}", rows.canonicalize()?.display()) }],
        "validation": { "fraction": 0.1 },
        "format": "Messages",
        "maxSequenceLength": 256,
    }))?;
    let report = prepared.report.to_text();
    ensure!(prepared.report.warnings.is_empty(), "{report}");
    ensure!(
        prepared.train.len() + prepared.validation.len() >= 200,
        "{report}"
    );
    ensure!(prepared.validation.len() >= 10, "{report}");
    ensure!(report.contains("<|im_start|>assistant\n«"), "{report}");
    ensure!(report.contains("<|im_end|>»"), "{report}");
    Ok(())
}
