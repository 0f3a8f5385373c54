//! The digest of a spec: what training depends on, and nothing else.
//!
//! A prepared set, a checkpoint and an outcome belong to a digest, and outlive both the operator and the trainer that made
//! them. So a field that has its default leaves no trace: a version that adds one gives an old spec its old digest. And
//! what changes no byte of the result (placement, retries, Secrets) is left out: it may change under a run.
//!
//! Every struct is taken apart without `..`: a new field does not compile until somebody has decided here.

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    BaseModel, Columns, Dataset, Dpo, EarlyStopping, FineTuneJobSpec, Full, InitialAdapter, Lora,
    Method, Objective, Output, OutputAdapter, Qlora, Quantization, Replay, Sft, Source, Training,
    Validation,
};

/// Fields that are always written and that the form of [`FineTuneJobSpec::earlier_digest`] does not have.
const ADDED_SINCE: [(&str, &str); 0] = [];

impl FineTuneJobSpec {
    /// The digest of what training depends on, `sha256:` and 64 hexadecimal digits, over its JSON with sorted keys.
    pub fn digest(&self) -> String {
        of(&training_part(self).0.into())
    }

    /// The digest in the earlier form, over every field of the spec, defaults included: jobs under way may carry it.
    pub fn earlier_digest(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        for (part, field) in ADDED_SINCE {
            if let Some(part) = value.get_mut(part).and_then(Value::as_object_mut) {
                part.remove(field);
            }
        }
        of(&value)
    }

    /// Whether `digest` is that of this spec, in today's form or in the earlier one: what an earlier version has begun is
    /// gone on with.
    pub fn has_digest(&self, digest: &str) -> bool {
        digest == self.digest() || digest == self.earlier_digest()
    }
}

/// The digest of a value. serde_json's map is sorted by key, so its text depends on nothing but the value.
fn of(value: &Value) -> String {
    let text = value.to_string();
    format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes())))
}

/// Fields that count, under their names.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    /// A field that has no default.
    fn set(mut self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or_default();
        self.0.insert(name.to_owned(), value);
        self
    }

    /// A field that leaves no trace where it is `default`. Should a default ever change, the old one stays written here.
    fn unless<T: PartialEq + Serialize>(self, name: &str, value: &T, default: &T) -> Self {
        if value == default {
            self
        } else {
            self.set(name, value)
        }
    }

    /// A field that leaves no trace where it is absent.
    fn some<T: Serialize>(self, name: &str, value: Option<T>) -> Self {
        match value {
            Some(value) => self.set(name, value),
            None => self,
        }
    }

    /// A group of fields that leaves no trace where it says nothing.
    fn group(self, name: &str, fields: Self) -> Self {
        if fields.0.is_empty() {
            self
        } else {
            self.set(name, fields.0)
        }
    }
}

/// What a field is here that is left out: it changes no byte of what is prepared, trained or published.
fn left_out<T>(_: &T) {}

fn training_part(spec: &FineTuneJobSpec) -> Fields {
    let FineTuneJobSpec {
        base_model:
            BaseModel {
                uri,
                revision,
                credentials_secret_ref,
            },
        dataset,
        method,
        objective,
        initial_adapter,
        training,
        checkpoint,
        output,
        placement,
        max_retries,
        dry_run,
    } = spec;
    left_out(credentials_secret_ref);
    left_out(checkpoint);
    left_out(placement);
    left_out(max_retries);
    left_out(dry_run);
    let base = Fields::default()
        .set("uri", uri)
        .some("revision", revision.as_ref());
    let mut fields = Fields::default()
        .set("baseModel", base.0)
        .set("dataset", dataset_part(dataset).0)
        .set("method", method_part(method).0);
    if let Some(objective) = objective {
        fields = fields.group("objective", objective_part(objective));
    }
    if let Some(InitialAdapter {
        uri,
        credentials_secret_ref,
    }) = initial_adapter
    {
        left_out(credentials_secret_ref);
        fields = fields.set("initialAdapter", uri);
    }
    fields = fields.group("training", training_part_of(training));
    if let Some(output) = output {
        fields = fields.group("output", output_part(output));
    }
    fields
}

fn uris(sources: &[Source]) -> Vec<&str> {
    sources.iter().map(|Source { uri }| uri.as_str()).collect()
}

fn dataset_part(dataset: &Dataset) -> Fields {
    let Dataset {
        train,
        validation,
        replay,
        format,
        columns,
        loss_on,
        max_sequence_length,
        packing,
        append_end_of_sequence,
        credentials_secret_ref,
    } = dataset;
    left_out(credentials_secret_ref);
    let mut fields = Fields::default().set("train", uris(train));
    if let Some(Validation {
        fraction,
        sources,
        every_steps,
    }) = validation
    {
        let validation = Fields::default()
            .some("fraction", *fraction)
            .some("sources", sources.as_deref().map(uris))
            .some("everySteps", *every_steps);
        fields = fields.set("validation", validation.0);
    }
    if let Some(Replay {
        sources,
        fraction,
        format,
    }) = replay
    {
        let replay = Fields::default()
            .set("sources", uris(sources))
            .set("fraction", fraction)
            .unless("format", format, &super::Format::Auto);
        fields = fields.set("replay", replay.0);
    }
    if let Some(columns) = columns {
        fields = fields.group("columns", columns_part(columns));
    }
    fields
        .unless("format", format, &super::Format::Auto)
        .some("lossOn", *loss_on)
        .unless("maxSequenceLength", max_sequence_length, &2048)
        .some("packing", *packing)
        .some("appendEndOfSequence", *append_end_of_sequence)
}

fn columns_part(columns: &Columns) -> Fields {
    let Columns {
        messages,
        tools,
        prompt,
        completion,
        chosen,
        rejected,
        text,
        instruction,
        input,
        output,
        conversations,
        system,
    } = columns;
    Fields::default()
        .some("messages", messages.as_ref())
        .some("tools", tools.as_ref())
        .some("prompt", prompt.as_ref())
        .some("completion", completion.as_ref())
        .some("chosen", chosen.as_ref())
        .some("rejected", rejected.as_ref())
        .some("text", text.as_ref())
        .some("instruction", instruction.as_ref())
        .some("input", input.as_ref())
        .some("output", output.as_ref())
        .some("conversations", conversations.as_ref())
        .some("system", system.as_ref())
}

fn method_part(method: &Method) -> Fields {
    let Method { full, lora, qlora } = method;
    let mut fields = Fields::default();
    if let Some(Full {}) = full {
        fields = fields.set("full", Map::new());
    }
    if let Some(lora) = lora {
        fields = fields.set("lora", lora_part(lora).0);
    }
    if let Some(qlora) = qlora {
        fields = fields.set("qlora", qlora_part(qlora).0);
    }
    fields
}

fn lora_part(lora: &Lora) -> Fields {
    let Lora {
        rank,
        alpha,
        rank_pattern,
        alpha_pattern,
        use_rslora,
        use_dora,
        dropout,
        target_modules,
    } = lora;
    let default = Lora::default();
    Fields::default()
        .unless("rank", rank, &default.rank)
        .unless("alpha", alpha, &default.alpha)
        .unless("rankPattern", rank_pattern, &default.rank_pattern)
        .unless("alphaPattern", alpha_pattern, &default.alpha_pattern)
        .unless("useRslora", use_rslora, &default.use_rslora)
        .unless("useDora", use_dora, &default.use_dora)
        .unless("dropout", dropout, &default.dropout)
        .unless("targetModules", target_modules, &default.target_modules)
}

fn qlora_part(qlora: &Qlora) -> Fields {
    let Qlora {
        rank: _,
        alpha: _,
        rank_pattern: _,
        alpha_pattern: _,
        use_rslora: _,
        use_dora: _,
        dropout: _,
        target_modules: _,
        quantization: Quantization {
            type_,
            double_quantization,
        },
    } = qlora;
    // The fields without a name here are those of `lora`.
    let default = Quantization::default();
    let quantization = Fields::default()
        .unless("type", type_, &default.type_)
        .unless(
            "doubleQuantization",
            double_quantization,
            &default.double_quantization,
        );
    lora_part(&qlora.lora()).group("quantization", quantization)
}

fn objective_part(objective: &Objective) -> Fields {
    let Objective { sft, dpo } = objective;
    if let Some(Sft {}) = sft {
        // What an absent objective is, too.
    }
    let mut fields = Fields::default();
    if let Some(Dpo { beta }) = dpo {
        let dpo = Fields::default().unless("beta", beta, &Dpo::default().beta);
        fields = fields.set("dpo", dpo.0);
    }
    fields
}

fn training_part_of(training: &Training) -> Fields {
    let Training {
        epochs,
        max_steps,
        batch_size,
        micro_batch_size,
        learning_rate,
        schedule,
        warmup_fraction,
        weight_decay,
        max_gradient_norm,
        optimizer,
        compute_type,
        neftune_noise_alpha,
        shuffle,
        seed,
        early_stopping,
    } = training;
    let default = Training::default();
    let mut fields = Fields::default();
    if let Some(EarlyStopping {
        patience,
        min_improvement,
    }) = early_stopping
    {
        let early_stopping = Fields::default().set("patience", patience).unless(
            "minImprovement",
            min_improvement,
            &0.0,
        );
        fields = fields.set("earlyStopping", early_stopping.0);
    }
    fields
        .some("epochs", *epochs)
        .some("maxSteps", *max_steps)
        .unless("batchSize", batch_size, &default.batch_size)
        .some("microBatchSize", *micro_batch_size)
        .some("learningRate", *learning_rate)
        .unless("schedule", schedule, &default.schedule)
        .unless("warmupFraction", warmup_fraction, &default.warmup_fraction)
        .unless("weightDecay", weight_decay, &default.weight_decay)
        .unless(
            "maxGradientNorm",
            max_gradient_norm,
            &default.max_gradient_norm,
        )
        .unless("optimizer", optimizer, &default.optimizer)
        .unless("computeType", compute_type, &default.compute_type)
        .some("neftuneNoiseAlpha", *neftune_noise_alpha)
        .unless("shuffle", shuffle, &default.shuffle)
        .unless("seed", seed, &default.seed)
}

/// Where the result goes and of what it is made: an outcome names the folder that it was published to.
fn output_part(output: &Output) -> Fields {
    let Output {
        uri,
        credentials_secret_ref,
        adapter,
        merged_model,
        gguf_adapter,
    } = output;
    left_out(credentials_secret_ref);
    let mut fields = Fields::default();
    if let Some(OutputAdapter { name, engines }) = adapter {
        left_out(engines);
        fields = fields.some("adapterName", name.as_ref());
    }
    fields
        .some("uri", uri.as_ref())
        .unless("mergedModel", merged_model, &false)
        .unless("ggufAdapter", gguf_adapter, &false)
}

#[cfg(test)]
mod tests {
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
                    "text": "g", "instruction": "h", "input": "i", "output": "j", "conversations": "k", "system": "l"
                },
                "lossOn": "Assistant",
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
        "sha256:c5cfeea65d4fcada18f4e50ffa32ae7a307dbc2393445a8184714cbf70b01bc8",
        "sha256:7a4c09300ade01a6edac7f21bdc63c75532006fa59aea45876b14a210fcc3667",
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
                Value::Number(number) if number.is_i64() => {
                    Value::from(number.as_i64().unwrap() + 1)
                }
                Value::Number(number) => Value::from(number.as_f64().unwrap() / 2.0),
                // Names of enum variants and texts are replaced by another one that the field takes.
                Value::String(_) => match key {
                    "format" => Value::from("Messages"),
                    "lossOn" => Value::from("All"),
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
}
