//! Jobs small enough to be run by the dozen: the tiny Llama of the parity fixtures on a handful of rows.

use std::path::PathBuf;

use anyhow::{Context, Result};
use object_store::{ObjectStoreExt, path::Path};
use serde_json::{Value, json};

/// The folder of the parity fixtures.
pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/fixtures")
}

/// Uploads a folder's files below `prefix` of a bucket.
pub async fn upload_folder(bucket: &str, prefix: &str, folder: &std::path::Path) -> Result<()> {
    let store = crate::store::bucket(bucket)?;
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let path = Path::from(format!("{prefix}/{}", entry.file_name().to_string_lossy()));
            store
                .put(&path, std::fs::read(entry.path())?.into())
                .await?;
        }
    }
    Ok(())
}

/// Uploads one text.
pub async fn upload_text(bucket: &str, path: &str, text: &str) -> Result<()> {
    crate::store::bucket(bucket)?
        .put(&Path::from(path), text.to_owned().into_bytes().into())
        .await?;
    Ok(())
}

/// Rows that the tiny model can chew on.
pub fn rows(count: usize) -> String {
    (0..count)
        .map(|i| {
            json!({"prompt": format!("question {i} "), "completion": format!("answer {}", i % 7)})
                .to_string()
                + "\n"
        })
        .collect()
}

/// The tiny model and its data, uploaded; safe to call from every test.
pub async fn tiny_world() -> Result<()> {
    upload_folder("models", "tiny-llama", &fixtures().join("tiny-llama")).await?;
    upload_text("data", "tiny/train.jsonl", &rows(64)).await?;
    Ok(())
}

/// A FineTuneJob on the tiny model; `changes` is merged into its spec.
pub fn tiny(name: &str, changes: Value) -> Value {
    let mut job = json!({
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": { "name": name },
        "spec": {
            "baseModel": { "uri": "s3://models/tiny-llama/", "credentialsSecretRef": { "name": "finetune-s3" } },
            "dataset": {
                "train": [ { "uri": "s3://data/tiny/train.jsonl" } ],
                "validation": { "fraction": 0.1 },
                "credentialsSecretRef": { "name": "finetune-s3" },
            },
            "method": { "lora": { "rank": 4, "alpha": 8 } },
            "training": { "maxSteps": 8, "batchSize": 8, "learningRate": 0.01, "computeType": "Float32" },
            "output": { "uri": "s3://adapters", "credentialsSecretRef": { "name": "finetune-s3" } },
        },
    });
    merge(&mut job["spec"], changes);
    job
}

/// RFC 7386: objects merge, null removes, anything else replaces.
pub fn merge(target: &mut Value, changes: Value) {
    match (target, changes) {
        (Value::Object(target), Value::Object(changes)) => {
            for (key, change) in changes {
                if change.is_null() {
                    target.remove(&key);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), change);
                }
            }
        }
        (target, changes) => *target = changes,
    }
}
