//! Data is prepared, told of, kept and read back with a tokenizer and no model.

#![allow(clippy::unwrap_used, reason = "what a test cannot set up it fails on")]

use std::path::Path;

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::store::Store;
use finetune_crds::FineTuneJobSpec;
use finetune_dataset::PreparedSet;
use finetune_dataset::prepare::{Error, Prepared, Request, prepare};
use finetune_dataset::tokenize::Tokenizer;
use serde_json::json;

/// A tokenizer of whole words, with a template that ends every turn in the token `E`.
fn tokenizer(folder: &Path) -> Tokenizer {
    let added = json!({
        "id": 0, "content": "E", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    });
    let words = json!({ "E": 0, "?": 1, "user": 2, "assistant": 3, "which": 4, "when": 5, "east": 6, "nine": 7 });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "?" },
    });
    let template = "{% for m in messages %}{{ m.role }} {{ m.content }} E {% endfor %}\
        {% if add_generation_prompt %}assistant {% endif %}";
    let config = json!({ "eos_token": "E", "chat_template": template });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::from_directory(folder).unwrap()
}

fn spec(folder: &Path, rows: &[[&str; 2]]) -> FineTuneJobSpec {
    let row = |[prompt, completion]: &[&str; 2]| {
        format!(
            "{}\n",
            json!({ "prompt": prompt, "completion": completion })
        )
    };
    let path = folder.join("train.jsonl");
    std::fs::write(&path, rows.iter().map(row).collect::<Vec<_>>().concat()).unwrap();
    serde_json::from_value(json!({
        "baseModel": { "uri": "file:///nowhere/" },
        "dataset": { "train": [{ "uri": format!("file://{}", path.display()) }] },
        "method": { "lora": {} },
    }))
    .unwrap()
}

async fn prepared(
    folder: &Path,
    spec: &FineTuneJobSpec,
    tokenizer: &Tokenizer,
    max_positions: i64,
) -> Result<Prepared, Error> {
    prepare(&Request {
        dataset: &spec.dataset,
        objective: spec.objective.as_ref(),
        tokenizer,
        max_positions,
        credentials: &Credentials::default(),
        cache: &Cache::new(&folder.join("cache")),
        day: jiff::civil::date(2026, 1, 2),
    })
    .await
}

#[tokio::test]
async fn rows_become_tokens_and_a_report_that_are_read_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(folder.path());
    let spec = spec(folder.path(), &[["which", "east"], ["when", "nine"]]);
    let made = prepared(folder.path(), &spec, &tokenizer, 6).await.unwrap();
    let tokens: Vec<_> = made.train.iter().map(|row| row.tokens.as_slice()).collect();
    assert_eq!(tokens, [[2, 4, 0, 3, 6, 0], [2, 5, 0, 3, 7, 0]]);
    assert_eq!(made.train[0].loss, [false, false, false, false, true, true]);
    let text = made.report.to_text();
    for told in [
        "2 rows to train on (PromptCompletion)",
        "12 tokens, 4 of them trained",
        "dataset.maxSequenceLength is 2048, but the base was made for 6",
    ] {
        assert!(text.contains(told), "{told:?} is not in {text}");
    }

    let credentials = Credentials::default();
    let passing = format!("file://{}/passing/", folder.path().display());
    let passing = Store::open(&passing, &credentials).unwrap();
    let set = PreparedSet {
        passing: &passing,
        spec: &spec,
        tokenizer_digest: tokenizer.digest(),
    };
    assert!(set.load(8, folder.path()).await.unwrap().is_none());
    let written = set.write(made, folder.path()).await.unwrap();
    assert_eq!(written.report.spec_digest, spec.digest());
    assert_eq!(set.load(8, folder.path()).await.unwrap(), Some(written));
    let beyond = set.load(7, folder.path()).await.unwrap_err().to_string();
    assert!(beyond.contains("beyond the vocabulary"), "{beyond}");
}

#[tokio::test]
async fn an_objective_is_refused_rows_that_do_not_teach_it() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(folder.path());
    let mut spec = spec(folder.path(), &[["which", "east"]]);
    spec.objective = serde_json::from_value(json!({ "dpo": {} })).unwrap();
    let refused = prepared(folder.path(), &spec, &tokenizer, 64)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().starts_with("objective is dpo"),
        "{refused}"
    );
}
