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
    ];
    let mut seeds: Vec<Vec<u8>> = rows
        .iter()
        .map(|row| format!("\u{feff}{row}\r\n\n{row}\n").into_bytes())
        .collect();
    seeds.push(rows.join("\n").into_bytes());
    fuzz("rows", BUDGET, &seeds, |bytes| {
        for format in [Format::Auto, Format::Messages, Format::Text] {
            let mut reader = RowReader::new(format);
            reader.read("train.jsonl", bytes).unwrap();
            let found = match reader.finish() {
                Ok(rows) => rows.rows.len(),
                // A file with faults has no rows.
                Err(faults) => {
                    assert!(!faults.to_string().is_empty());
                    faults.count
                }
            };
            assert!(found <= bytes.split(|byte| *byte == b'\n').count());
        }
    });
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
