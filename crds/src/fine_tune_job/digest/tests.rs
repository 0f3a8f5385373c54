//! The digest's form is kept from version to version, and every field is in or out on purpose.

use serde_json::json;

use super::*;

fn spec(value: Value) -> FineTuneJobSpec {
    serde_json::from_value(value).unwrap()
}

fn smallest() -> Value {
    json!({
        "baseModel": { "uri": "s3://models/base/" },
        "dataset": { "train": [ { "uri": "s3://data/train.jsonl" } ] },
        "method": { "qlora": {} },
    })
}

/// Every field that counts, with another value than its default, whether or not they go together.
fn fullest() -> Value {
    json!({
        "baseModel": { "uri": "hf://owner/name", "revision": "v1", "credentialsSecretRef": { "name": "a" } },
        "dataset": {
            "train": [ { "uri": "s3://data/a.jsonl" }, { "uri": "s3://data/b.jsonl" } ],
            "validation": { "fraction": 0.25, "sources": [ { "uri": "s3://data/v.jsonl" } ], "everySteps": 7 },
            "replay": { "sources": [ { "uri": "s3://data/r.jsonl" } ], "fraction": 0.25, "format": "Text" },
            "format": "ShareGPT",
            "columns": {
                "messages": "a", "tools": "b", "prompt": "c", "completion": "d", "chosen": "e", "rejected": "f",
                "text": "g", "instruction": "h", "input": "i", "output": "j", "conversations": "k", "system": "l",
                "history": "m"
            },
            "lossOn": "Assistant",
            "chatTemplate": "Never",
            "maxSequenceLength": 512,
            "packing": true,
            "appendEndOfSequence": true,
            "credentialsSecretRef": { "name": "b" }
        },
        "method": {
            "lora": {
                "rank": 8, "alpha": 8, "rankPattern": { "q_proj": 4 }, "alphaPattern": { "q_proj": 2 },
                "useRslora": true, "useDora": true, "dropout": 0.125, "targetModules": [ "q_proj" ]
            },
            "qlora": { "rank": 4, "quantization": { "type": "FP4", "doubleQuantization": false } }
        },
        "objective": { "dpo": { "beta": 0.5 } },
        "initialAdapter": { "uri": "s3://models/adapter/", "credentialsSecretRef": { "name": "c" } },
        "training": {
            "epochs": 2, "maxSteps": 10, "batchSize": 4, "microBatchSize": 2, "learningRate": 0.0005, "schedule": "Linear",
            "warmupFraction": 0.5, "weightDecay": 0.25, "maxGradientNorm": 2.0, "optimizer": "AdamW8bit",
            "computeType": "Float32", "neftuneNoiseAlpha": 5.0, "shuffle": false, "seed": 1,
            "earlyStopping": { "patience": 2, "minImprovement": 0.5 }
        },
        "checkpoint": { "everySteps": 5, "everySeconds": 5, "keep": 1 },
        "output": {
            "uri": "s3://adapters/a", "credentialsSecretRef": { "name": "d" }, "mergedModel": true, "ggufAdapter": true,
            "adapter": { "name": "other", "engines": [ "Finetune" ] }
        },
        "placement": { "nodeSelector": { "a": "b" } },
        "maxRetries": 7,
        "dryRun": true
    })
}

fn dense() -> Value {
    json!({
        "baseModel": { "uri": "gs://models/base/" },
        "dataset": {
            "train": [ { "uri": "s3://data/" } ],
            "validation": { "fraction": 0.1 },
            "format": "Text",
            "appendEndOfSequence": false
        },
        "method": { "full": {} },
        "objective": { "sft": {} },
        "training": { "epochs": 2 },
        "output": { "uri": "s3://models" }
    })
}

/// Prepared sets, checkpoints and outcomes in storage carry these. A change here makes every unfinished job fail at
/// the next upgrade.
#[test]
fn a_spec_keeps_its_digest_from_version_to_version() {
    for (value, digest, earlier) in [
        (smallest(), SMALLEST.0, SMALLEST.1),
        (fullest(), FULLEST.0, FULLEST.1),
        (dense(), DENSE.0, DENSE.1),
    ] {
        let spec = spec(value);
        let text = Value::from(training_part(&spec).0).to_string();
        assert_eq!(spec.digest(), digest, "{text}");
        assert_eq!(spec.earlier_digest(), earlier);
        assert!(spec.has_digest(digest) && spec.has_digest(earlier));
    }
}

const SMALLEST: (&str, &str) = (
    "sha256:f7066f53df1a657922a5c4b84bf1a88ba3afb22272fc83d5964880fd4bf3b7dd",
    "sha256:30b88144aaee475b1cf7ad958f181768a744244283a5274d16c60798ae79f24c",
);
const FULLEST: (&str, &str) = (
    "sha256:40e882f045c0d8ace8b8a055208ae20ad37b417b529da76290236f6275c055fb",
    "sha256:fae2b70337580a96e05337403fe91051c5fdb67508db171cdca1bbe0f898e6ab",
);
const DENSE: (&str, &str) = (
    "sha256:fef23721014ff82959d094a6567f210bce0b4a896953f4472ef1a49455bef6de",
    "sha256:7c8035939450ec952cbd0321edbd833da827a2aa994b415714887d0532971026",
);

#[test]
fn a_default_that_is_written_out_changes_no_digest() {
    let short = spec(smallest());
    let written: FineTuneJobSpec =
        serde_json::from_value(serde_json::to_value(&short).unwrap()).unwrap();
    assert_eq!(written.digest(), short.digest());
    let mut value = smallest();
    value["objective"] = json!({ "sft": {} });
    value["method"]["qlora"] = json!({ "rank": 16, "quantization": { "type": "NF4" } });
    value["dataset"]["columns"] = json!({});
    value["training"] = json!({ "seed": 42 });
    value["output"] = json!({});
    assert_eq!(spec(value).digest(), short.digest());
}

/// Where a field lies, as a JSON pointer.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                leaves(value, &format!("{at}/{key}"), found);
            }
        }
        _ => found.push(at.to_owned()),
    }
}

#[test]
fn every_field_that_counts_changes_the_digest_and_no_other_one_does() {
    const NO_DIFFERENCE: [&str; 9] = [
        "/baseModel/credentialsSecretRef/",
        "/dataset/credentialsSecretRef/",
        "/initialAdapter/credentialsSecretRef/",
        "/output/credentialsSecretRef/",
        "/output/adapter/engines",
        "/checkpoint/",
        "/placement/",
        "/maxRetries",
        "/dryRun",
    ];
    let whole = fullest();
    let digest = spec(whole.clone()).digest();
    let mut fields = Vec::new();
    leaves(&whole, "", &mut fields);
    for field in fields {
        let (parent, key) = field.rsplit_once('/').unwrap();
        let mut changed = whole.clone();
        let other = match changed.pointer(&field).unwrap() {
            Value::Bool(flag) => Value::from(!flag),
            Value::Number(number) if number.is_i64() => Value::from(number.as_i64().unwrap() + 1),
            Value::Number(number) => Value::from(number.as_f64().unwrap() / 2.0),
            // Names of enum variants and texts are replaced by another one that the field takes.
            Value::String(_) => match key {
                "format" => Value::from("Messages"),
                "lossOn" => Value::from("All"),
                "chatTemplate" => Value::from("Auto"),
                "schedule" => Value::from("Constant"),
                "optimizer" => Value::from("AdamW"),
                "computeType" => Value::from("BFloat16"),
                "type" => Value::from("NF4"),
                _ => Value::from("another"),
            },
            Value::Array(_) if key == "engines" => json!(["VLLM"]),
            Value::Array(_) if key == "targetModules" => json!(["k_proj"]),
            Value::Array(_) => json!([{ "uri": "s3://data/other.jsonl" }]),
            Value::Object(_) | Value::Null => Value::Null,
        };
        *changed.pointer_mut(&field).unwrap() = other;
        let counts = !NO_DIFFERENCE.iter().any(|prefix| field.starts_with(prefix));
        let same = spec(changed).digest() == digest;
        assert_eq!(same, !counts, "{field} (in {parent})");
    }
}

/// Where the fields of a schema lie that a value does not have.
fn absent(schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let at = format!("{at}/{name}");
        match value.get(name) {
            None => found.push(at),
            Some(Value::Array(items)) => {
                let first = items.first().unwrap_or(&Value::Null);
                absent(&schema["items"], first, &at, found);
            }
            Some(value) => absent(schema, value, &at, found),
        }
    }
}

/// A field that is not there is not looked at by the test before.
#[test]
fn the_fullest_spec_has_every_field_of_the_schema() {
    // What excludes what is there, what `qlora` shares with `lora`, and where pods run, which never counts.
    const LEFT_OUT: [&str; 4] = [
        "/method/full",
        "/method/qlora/",
        "/objective/sft",
        "/placement/",
    ];
    let schema = crate::schema::fine_tune_job();
    let mut found = Vec::new();
    absent(&schema["properties"]["spec"], &fullest(), "", &mut found);
    found.retain(|field| !LEFT_OUT.iter().any(|prefix| field.starts_with(prefix)));
    assert_eq!(found, Vec::<String>::new());
}
