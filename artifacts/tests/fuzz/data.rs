//! The readers of rows and of lists of files.

use finetune_artifacts::manifest::Manifest;
use finetune_artifacts::rows::RowReader;
use finetune_crds::fine_tune_job::Format;

use crate::driver::{Budget, fuzz};
use crate::{BUDGET, fixture};

#[test]
fn every_line_of_changed_rows_is_a_row_or_a_fault() {
    let rows = [
        r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Grüße 👍"}, {"role": "assistant", "content": "12"}]}"#,
        r#"{"prompt": "a \"quoted\" \u00e9", "completion": "b\n", "extra": null}"#,
        r#"{"text": "plain"}"#,
        r#"{"messages": [{"role": "assistant", "content": null, "refusal": "", "tool_calls": [{"type": "function", "id": null, "function": {"name": "f", "arguments": "{\"a\": [1, {}]}"}}]}], "tools": "[{\"function\": {\"name\": \"f\"}}]"}"#,
        r#"{"instruction": "i", "input": "", "output": "o", "system": "s", "history": [["q", "a"], ["q2", "a2"]]}"#,
        r#"{"conversations": [{"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"}, {"from": "observation", "value": "7"}, {"from": "gpt", "value": "a"}], "tools": "[{\"name\": \"f\"}]"}"#,
    ];
    let mut seeds: Vec<Vec<u8>> = rows
        .iter()
        .map(|row| format!("\u{feff}{row}\r\n\n{row}\n").into_bytes())
        .collect();
    seeds.push(rows.join("\n").into_bytes());
    fuzz("rows", BUDGET, &seeds, |bytes| {
        for format in [
            Format::Auto,
            Format::Messages,
            Format::Text,
            Format::Alpaca,
            Format::ShareGPT,
        ] {
            assert!(found("train.jsonl", format, bytes) <= lines(bytes));
        }
    });
}

#[test]
fn every_line_of_a_changed_table_is_a_row_or_a_fault() {
    let messages = r#""[{""role"": ""assistant"", ""content"": ""a""}]""#;
    let seeds = [
        format!("messages,tools,note\n{messages},,1\n{messages},[],\n,,\n"),
        "instruction,input,output,system,history,\ni,,o,s,\"[[\"\"q\"\",\"\"a\"\"]]\",\n"
            .to_owned(),
        "\u{feff}prompt,completion\r\n\"a, \"\"b\"\"\",\"c\nd\"\r\n".to_owned(),
    ];
    let seeds = seeds.map(String::into_bytes);
    fuzz("table", BUDGET, &seeds, |bytes| {
        for format in [Format::Auto, Format::Messages, Format::Alpaca] {
            assert!(found("train.csv", format, bytes) <= lines(bytes));
        }
    });
}

fn lines(bytes: &[u8]) -> usize {
    bytes.split(|byte| matches!(byte, b'\n' | b'\r')).count()
}

/// How many rows or faults a file has.
fn found(name: &str, format: Format, bytes: &[u8]) -> usize {
    let mut reader = RowReader::new(format);
    reader.read(name, bytes).unwrap();
    match reader.finish() {
        Ok(rows) => {
            assert!(
                rows.unread
                    .warning()
                    .is_none_or(|warning| !warning.is_empty())
            );
            rows.rows.len()
        }
        // A file with faults has no rows.
        Err(faults) => {
            assert!(!faults.to_string().is_empty());
            faults.count
        }
    }
}

/// Compression lets a file stand for 1000 times its size and 16 MiB; each value takes twice as much on its way.
const PARQUET: Budget = Budget {
    iterations: 6_000,
    memory: 1 << 12,
    fixed: 64 << 20,
};

#[test]
fn every_row_of_a_changed_parquet_file_is_a_row_or_a_fault() {
    let names = [
        "text-plain",
        "pairs-plain",
        "alpaca-lz4",
        "sharegpt-brotli",
        "preference-zstd",
    ];
    let seeds =
        names.map(|name| std::fs::read(fixture(&format!("parquet/{name}.parquet"))).unwrap());
    fuzz("parquet", PARQUET, &seeds, |bytes| {
        let mut reader = RowReader::new(Format::Auto);
        reader.read("train.parquet", bytes).unwrap();
        match reader.finish() {
            Ok(rows) => assert!(rows.rows.iter().all(|row| row.line >= 1)),
            Err(faults) => assert!(faults.count > 0 && !faults.to_string().is_empty()),
        }
    });
}

#[test]
fn a_changed_manifest_of_files_is_refused_or_stays_below_its_folder() {
    let digest = "0123456789abcdef".repeat(4);
    let seed = format!(
        r#"{{"files":[{{"path":"a","size":1,"sha256":"{digest}"}},{{"path":"b/c.json","size":20,"sha256":"{digest}"}}]}}"#
    );
    fuzz("manifest", BUDGET, &[seed.into_bytes()], |bytes| {
        let Ok(manifest) = Manifest::parse(bytes, "it") else {
            return;
        };
        for file in &manifest.files {
            let mut parts = file.path.split('/');
            assert!(parts.all(|part| !matches!(part, "" | "." | "..")));
            assert!(!file.path.contains(['\\', '\0']));
        }
        assert_eq!(
            Manifest::parse(&manifest.to_bytes(), "it").unwrap(),
            manifest
        );
    });
}
