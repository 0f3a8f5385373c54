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
        chat_template,
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
        .unless("chatTemplate", chat_template, &super::ChatTemplateUse::Auto)
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
        history,
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
        .some("history", history.as_ref())
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
mod tests;
