//! The rules of the CRD, for manifests that no API server has seen.
//!
//! Pure: a fault is data. The bounds are those of the schema; a rule that stands here and not there would surprise.

use std::fmt;
use std::ops::RangeInclusive;

use finetune_artifacts::rows::RowFormat;
use finetune_artifacts::uri::Location;
use finetune_crds::FineTuneJobSpec;
use finetune_crds::fine_tune_job::{
    Columns, Dataset, EarlyStopping, Format, Lora, Method, Replay, Training,
};

use crate::method::Pattern;

/// One thing that is wrong with a manifest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The field, such as `spec.training.epochs`.
    pub field: String,
    /// The value, what was expected, the cure.
    pub message: String,
}

impl Fault {
    pub(crate) fn new(field: &str, message: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.field, self.message)
    }
}

/// Everything that is wrong with the spec of the job called `name`; empty where nothing is.
pub fn validate(name: &str, spec: &FineTuneJobSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_name(name, &mut faults);
    check_uri("spec.baseModel.uri", &spec.base_model.uri, &mut faults);
    if let Some(revision) = &spec.base_model.revision
        && !spec.base_model.uri.starts_with("hf://")
    {
        faults.push(Fault::new(
            "spec.baseModel.revision",
            format!("is `{revision}`, which applies to hf:// only: remove it, or use an hf:// URI"),
        ));
    }
    check_dataset(&spec.dataset, &mut faults);
    check_method(&spec.method, &mut faults);
    check_objective(spec, &mut faults);
    if let Some(adapter) = &spec.initial_adapter {
        check_uri("spec.initialAdapter.uri", &adapter.uri, &mut faults);
        if spec.method.full.is_some() {
            faults.push(Fault::new(
                "spec.initialAdapter",
                "is set with method full, which trains no adapter: remove it, or use lora or qlora",
            ));
        }
    }
    check_training(&spec.training, &mut faults);
    check_packing(spec, &mut faults);
    if let Some(early_stopping) = &spec.training.early_stopping {
        check_early_stopping(early_stopping, &spec.dataset, &mut faults);
    }
    let checkpoint = &spec.checkpoint;
    check_range(
        "spec.checkpoint.everySteps",
        checkpoint.every_steps,
        1..=1_000_000_000,
        &mut faults,
    );
    check_range(
        "spec.checkpoint.everySeconds",
        checkpoint.every_seconds,
        1..=604_800,
        &mut faults,
    );
    check_range(
        "spec.checkpoint.keep",
        checkpoint.keep,
        1..=100,
        &mut faults,
    );
    if let Some(output) = &spec.output {
        if let Some(uri) = &output.uri {
            check_uri("spec.output.uri", uri, &mut faults);
            if uri.starts_with("hf://") || uri.starts_with("https://") {
                faults.push(Fault::new(
                    "spec.output.uri",
                    format!(
                        "is `{uri}`, which is for reading only: expected an s3:// or file:// folder"
                    ),
                ));
            }
        }
        if output.adapter.is_some() && spec.method.full.is_some() {
            faults.push(Fault::new(
                "spec.output.adapter",
                "is set with method full, which makes a whole model: remove it, or use lora or qlora",
            ));
        }
        if output.merged_model && spec.method.full.is_some() {
            faults.push(Fault::new(
                "spec.output.mergedModel",
                "is true with method full, which makes a whole model anyway: remove it, or use lora or qlora",
            ));
        }
        if let Some(adapter) = output
            .adapter
            .as_ref()
            .and_then(|adapter| adapter.name.as_deref())
            && !is_name(adapter)
        {
            faults.push(Fault::new("spec.output.adapter.name", name_rule(adapter)));
        }
    }
    faults
}

fn check_name(name: &str, faults: &mut Vec<Fault>) {
    if !is_name(name) {
        faults.push(Fault::new("metadata.name", name_rule(name)));
    }
}

/// `[a-z]([-a-z0-9]*[a-z0-9])?`, at most 52 characters.
fn is_name(name: &str) -> bool {
    name.len() <= 52
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|each| each.is_ascii_lowercase() || each.is_ascii_digit() || each == '-')
}

fn name_rule(name: &str) -> String {
    format!("is `{name}`, expected 1 to 52 of a-z, 0-9 and -, a letter first and no - last")
}

fn check_uri(field: &str, uri: &str, faults: &mut Vec<Fault>) {
    if let Err(error) = Location::parse(uri) {
        faults.push(Fault::new(field, format!("is `{uri}`: {error}")));
    }
}

fn check_dataset(dataset: &Dataset, faults: &mut Vec<Fault>) {
    if !(1..=64).contains(&dataset.train.len()) {
        let count = dataset.train.len();
        faults.push(Fault::new(
            "spec.dataset.train",
            format!("has {count} sources, expected 1 to 64"),
        ));
    }
    for (index, source) in dataset.train.iter().enumerate() {
        check_uri(
            &format!("spec.dataset.train[{index}].uri"),
            &source.uri,
            faults,
        );
    }
    if let Some(validation) = &dataset.validation {
        let field = "spec.dataset.validation";
        match (validation.fraction, &validation.sources) {
            (Some(fraction), None) => {
                check_range(&format!("{field}.fraction"), fraction, 0.001..=0.5, faults);
            }
            (None, Some(sources)) if (1..=64).contains(&sources.len()) => {
                for (index, source) in sources.iter().enumerate() {
                    check_uri(&format!("{field}.sources[{index}].uri"), &source.uri, faults);
                }
            }
            (None, Some(sources)) => {
                let count = sources.len();
                faults.push(Fault::new(&format!("{field}.sources"), format!("has {count} sources, expected 1 to 64")));
            }
            (Some(_), Some(_)) => faults.push(Fault::new(
                field,
                "has both fraction and sources, expected exactly one: remove one of them",
            )),
            (None, None) => faults.push(Fault::new(
                field,
                "has neither fraction nor sources, expected exactly one: add one, or remove validation",
            )),
        }
        if let Some(every_steps) = validation.every_steps {
            check_range(
                &format!("{field}.everySteps"),
                every_steps,
                1..=1_000_000_000,
                faults,
            );
        }
    }
    if let Some(replay) = &dataset.replay {
        check_replay(replay, faults);
    }
    if let Some(columns) = &dataset.columns {
        check_columns(columns, dataset.format, faults);
    }
    if dataset.append_end_of_sequence.is_some() && dataset.format != Format::Text {
        faults.push(Fault::new(
            "spec.dataset.appendEndOfSequence",
            "applies to format Text only: set format: Text or remove it",
        ));
    }
    check_range(
        "spec.dataset.maxSequenceLength",
        dataset.max_sequence_length,
        2..=1_048_576,
        faults,
    );
}

fn check_replay(replay: &Replay, faults: &mut Vec<Fault>) {
    let field = "spec.dataset.replay";
    if !(1..=64).contains(&replay.sources.len()) {
        let count = replay.sources.len();
        faults.push(Fault::new(
            &format!("{field}.sources"),
            format!("has {count} sources, expected 1 to 64"),
        ));
    }
    for (index, source) in replay.sources.iter().enumerate() {
        check_uri(
            &format!("{field}.sources[{index}].uri"),
            &source.uri,
            faults,
        );
    }
    check_range(
        &format!("{field}.fraction"),
        replay.fraction,
        0.001..=0.5,
        faults,
    );
}

fn check_columns(columns: &Columns, format: Format, faults: &mut Vec<Fault>) {
    for (name, value) in columns.named() {
        if !(1..=256).contains(&value.chars().count()) {
            faults.push(Fault::new(
                &format!("spec.dataset.columns.{name}"),
                "is empty or longer than 256 characters, expected the name of a column",
            ));
        }
    }
    let named: Vec<&str> = columns.named().map(|(name, _)| name).collect();
    let named = named.join(", ");
    match RowFormat::wanted(format) {
        Some(format) if !format.has(columns) => faults.push(Fault::new(
            "spec.dataset.columns",
            format!("names {named}, expected columns of format {format}: remove the others, or set the format that has them"),
        )),
        None if !RowFormat::ALL.iter().any(|format| format.has(columns)) => faults.push(Fault::new(
            "spec.dataset.columns",
            format!("names {named}, which no format has together: name the columns of one format"),
        )),
        Some(_) | None => {}
    }
}

fn check_method(method: &Method, faults: &mut Vec<Fault>) {
    let named: Vec<&str> = [
        method.full.is_some().then_some("full"),
        method.lora.is_some().then_some("lora"),
        method.qlora.is_some().then_some("qlora"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if named.len() != 1 {
        let seen = if named.is_empty() {
            "none".to_owned()
        } else {
            named.join(" and ")
        };
        faults.push(Fault::new(
            "spec.method",
            format!("has {seen}, expected exactly one of full, lora and qlora"),
        ));
    }
    let adapters = [
        method.lora.clone().map(|lora| ("lora", lora)),
        method.qlora.as_ref().map(|qlora| ("qlora", qlora.lora())),
    ];
    for (name, lora) in adapters.into_iter().flatten() {
        check_lora(&format!("spec.method.{name}"), &lora, faults);
    }
}

fn check_objective(spec: &FineTuneJobSpec, faults: &mut Vec<Fault>) {
    let Some(objective) = &spec.objective else {
        return;
    };
    match (&objective.sft, &objective.dpo) {
        (Some(_), Some(_)) => faults.push(Fault::new(
            "spec.objective",
            "has both sft and dpo, expected exactly one: remove one of them",
        )),
        (None, None) => faults.push(Fault::new(
            "spec.objective",
            "has neither sft nor dpo, expected exactly one: add one, or remove objective",
        )),
        (Some(_), None) | (None, Some(_)) => {}
    }
    let Some(dpo) = &objective.dpo else {
        return;
    };
    check_range("spec.objective.dpo.beta", dpo.beta, 1e-10..=100.0, faults);
    if spec.method.full.is_some() {
        faults.push(Fault::new(
            "spec.objective.dpo",
            "is set with method full, whose reference would be a second model: use lora or qlora",
        ));
    }
    if spec.dataset.replay.is_some() {
        faults.push(Fault::new(
            "spec.dataset.replay",
            "is set with objective dpo, which learns from pairs of answers alone: remove it",
        ));
    }
    if spec.training.micro_batch_size.is_some() {
        faults.push(Fault::new(
            "spec.training.microBatchSize",
            "is set with objective dpo, which takes one answer a pass: remove it",
        ));
    }
}

fn check_lora(field: &str, lora: &Lora, faults: &mut Vec<Fault>) {
    check_range(&format!("{field}.rank"), lora.rank, 1..=1024, faults);
    check_range(&format!("{field}.alpha"), lora.alpha, 1..=65536, faults);
    check_range(&format!("{field}.dropout"), lora.dropout, 0.0..=0.9, faults);
    if lora.target_modules.is_empty() || lora.target_modules.iter().any(String::is_empty) {
        faults.push(Fault::new(
            &format!("{field}.targetModules"),
            "is empty or has an empty name, expected names such as q_proj, or all-linear",
        ));
    }
    for (name, most, pattern) in [
        ("rankPattern", 1024, &lora.rank_pattern),
        ("alphaPattern", 65536, &lora.alpha_pattern),
    ] {
        let field = format!("{field}.{name}");
        if pattern.len() > 64 {
            let count = pattern.len();
            faults.push(Fault::new(
                &field,
                format!("has {count} patterns, expected at most 64"),
            ));
        }
        for value in pattern.values() {
            check_range(&field, *value, 1..=most, faults);
        }
        if let Err(error) = Pattern::new(pattern) {
            faults.push(Fault::new(&field, error));
        }
    }
}

fn check_training(training: &Training, faults: &mut Vec<Fault>) {
    let field = |name: &str| format!("spec.training.{name}");
    if training.epochs.is_some() && training.max_steps.is_some() {
        faults.push(Fault::new(
            "spec.training",
            "has both epochs and maxSteps, expected at most one: remove one of them",
        ));
    }
    if let Some(epochs) = training.epochs {
        check_range(&field("epochs"), epochs, 1..=10_000, faults);
    }
    if let Some(max_steps) = training.max_steps {
        check_range(&field("maxSteps"), max_steps, 1..=1_000_000_000, faults);
    }
    check_range(&field("batchSize"), training.batch_size, 1..=65536, faults);
    if let Some(micro_batch_size) = training.micro_batch_size {
        check_range(
            &field("microBatchSize"),
            micro_batch_size,
            1..=training.batch_size.max(1),
            faults,
        );
    }
    if let Some(learning_rate) = training.learning_rate {
        check_range(&field("learningRate"), learning_rate, 1e-10..=10.0, faults);
    }
    if let Some(alpha) = training.neftune_noise_alpha {
        check_range(&field("neftuneNoiseAlpha"), alpha, 1e-10..=1000.0, faults);
    }
    check_range(
        &field("warmupFraction"),
        training.warmup_fraction,
        0.0..=1.0,
        faults,
    );
    check_range(
        &field("weightDecay"),
        training.weight_decay,
        0.0..=1.0,
        faults,
    );
    check_range(
        &field("maxGradientNorm"),
        training.max_gradient_norm,
        0.0..=1_000_000.0,
        faults,
    );
    check_range(&field("seed"), training.seed, 0..=4_294_967_295, faults);
}

fn check_packing(spec: &FineTuneJobSpec, faults: &mut Vec<Fault>) {
    if spec.dataset.packing != Some(true) {
        return;
    }
    let field = "spec.dataset.packing";
    if spec.preference().is_some() {
        faults.push(Fault::new(
            field,
            "is true with objective dpo, whose rows are pairs of answers: remove it",
        ));
    }
    if spec.training.neftune_noise_alpha.is_some() {
        faults.push(Fault::new(
            field,
            "is true with training.neftuneNoiseAlpha, whose noise depends on the length of a row: remove one of them",
        ));
    }
}

fn check_early_stopping(
    early_stopping: &EarlyStopping,
    dataset: &Dataset,
    faults: &mut Vec<Fault>,
) {
    let field = "spec.training.earlyStopping";
    if dataset.validation.is_none() {
        faults.push(Fault::new(
            field,
            "needs a validation loss: set dataset.validation or remove it",
        ));
    }
    check_range(
        &format!("{field}.patience"),
        early_stopping.patience,
        1..=10_000,
        faults,
    );
    check_range(
        &format!("{field}.minImprovement"),
        early_stopping.min_improvement,
        0.0..=1000.0,
        faults,
    );
}

/// NaN lies in no range.
fn check_range<T: Copy + PartialOrd + fmt::Display>(
    field: &str,
    value: T,
    range: RangeInclusive<T>,
    faults: &mut Vec<Fault>,
) {
    if !range.contains(&value) {
        faults.push(Fault::new(
            field,
            format!("is {value}, expected {} to {}", range.start(), range.end()),
        ));
    }
}

#[cfg(test)]
mod tests {
    use finetune_crds::fine_tune_job::{
        BaseModel, Full, InitialAdapter, Output, OutputAdapter, Source, Validation,
    };
    use finetune_crds::fine_tune_job::{Checkpoint, Dpo, Objective, Placement, Qlora, Sft};

    use super::*;

    fn good() -> FineTuneJobSpec {
        FineTuneJobSpec {
            base_model: BaseModel {
                uri: "file:///base/".into(),
                revision: None,
                credentials_secret_ref: None,
            },
            dataset: Dataset {
                train: vec![Source {
                    uri: "s3://bucket/train.jsonl".into(),
                }],
                max_sequence_length: 128,
                ..Dataset::default()
            },
            method: Method {
                lora: Some(Lora::default()),
                ..Method::default()
            },
            training: Training::default(),
            checkpoint: Checkpoint::default(),
            objective: None,
            initial_adapter: None,
            output: None,
            placement: Placement::default(),
            max_retries: 3,
            dry_run: false,
        }
    }

    #[track_caller]
    fn refuses(expected: &str, change: impl Fn(&mut FineTuneJobSpec)) {
        let mut spec = good();
        change(&mut spec);
        let faults = validate("job", &spec);
        let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(
            shown.iter().any(|fault| fault.starts_with(expected)),
            "expected `{expected}`, got {shown:?}"
        );
    }

    #[test]
    fn a_good_spec_has_no_fault() {
        assert_eq!(validate("job", &good()), []);
    }

    #[test]
    fn each_rule_names_its_field() {
        refuses("spec.method has full and lora", |spec| {
            spec.method.full = Some(Full {});
        });
        refuses("spec.method has none", |spec| spec.method.lora = None);
        refuses("spec.training has both", |spec| {
            spec.training.epochs = Some(1);
            spec.training.max_steps = Some(1);
        });
        refuses(
            "spec.training.microBatchSize is 17, expected 1 to 16",
            |spec| {
                spec.training.micro_batch_size = Some(17);
            },
        );
        refuses("spec.training.learningRate is NaN", |spec| {
            spec.training.learning_rate = Some(f64::NAN);
        });
        refuses("spec.dataset.validation has neither", |spec| {
            spec.dataset.validation = Some(Validation::default());
        });
        refuses("spec.dataset.validation has both", |spec| {
            spec.dataset.validation = Some(Validation {
                fraction: Some(0.1),
                sources: Some(vec![]),
                every_steps: None,
            });
        });
        refuses("spec.dataset.appendEndOfSequence", |spec| {
            spec.dataset.append_end_of_sequence = Some(true);
        });
        refuses("spec.dataset.replay.fraction is 0.9", |spec| {
            spec.dataset.replay = Some(Replay {
                sources: spec.dataset.train.clone(),
                fraction: 0.9,
                format: Format::Auto,
            });
        });
        refuses(
            "spec.dataset.columns names prompt, expected columns of format Text",
            |spec| {
                spec.dataset.format = Format::Text;
                spec.dataset.columns = Some(Columns {
                    prompt: Some("question".into()),
                    ..Columns::default()
                });
            },
        );
        refuses(
            "spec.dataset.columns names messages, prompt, which no format has together",
            |spec| {
                spec.dataset.columns = Some(Columns {
                    messages: Some("chat".into()),
                    prompt: Some("question".into()),
                    ..Columns::default()
                });
            },
        );
        refuses("spec.dataset.train has 0", |spec| {
            spec.dataset.train.clear();
        });
        refuses("spec.baseModel.uri is `ftp://x/y`", |spec| {
            spec.base_model.uri = "ftp://x/y".into();
        });
        refuses("spec.output.adapter is set with method full", |spec| {
            spec.method = Method {
                full: Some(Full {}),
                ..Method::default()
            };
            spec.output = Some(Output {
                adapter: Some(OutputAdapter::default()),
                ..Output::default()
            });
        });
        refuses(
            "spec.training.earlyStopping needs a validation loss",
            |spec| {
                spec.training.early_stopping = Some(EarlyStopping {
                    patience: 1,
                    min_improvement: 0.0,
                });
            },
        );
        refuses("spec.dataset.packing is true with objective dpo", |spec| {
            spec.dataset.packing = Some(true);
            spec.objective = Some(Objective {
                dpo: Some(Dpo::default()),
                ..Objective::default()
            });
        });
        refuses(
            "spec.dataset.packing is true with training.neftuneNoiseAlpha",
            |spec| {
                spec.dataset.packing = Some(true);
                spec.training.neftune_noise_alpha = Some(5.0);
            },
        );
        refuses(
            "spec.training.earlyStopping.patience is 0, expected 1 to 10000",
            |spec| {
                spec.training.early_stopping = Some(EarlyStopping::default());
            },
        );
        refuses("spec.training.earlyStopping.minImprovement is -1", |spec| {
            spec.training.early_stopping = Some(EarlyStopping {
                patience: 1,
                min_improvement: -1.0,
            });
        });
        refuses("spec.output.mergedModel is true with method full", |spec| {
            spec.method = Method {
                full: Some(Full {}),
                ..Method::default()
            };
            spec.output = Some(Output {
                merged_model: true,
                ..Output::default()
            });
        });
        refuses("spec.method.lora.rank is 0", |spec| {
            spec.method.lora = Some(Lora {
                rank: 0,
                ..Lora::default()
            });
        });
        refuses(
            "spec.method.lora.rankPattern has the pattern `q_proj(`",
            |spec| {
                spec.method.lora = Some(Lora {
                    rank_pattern: [("q_proj(".to_owned(), 8)].into(),
                    ..Lora::default()
                });
            },
        );
        refuses(
            "spec.method.qlora.alphaPattern is 0, expected 1 to 65536",
            |spec| {
                spec.method = Method {
                    qlora: Some(Qlora {
                        alpha_pattern: [("q_proj".to_owned(), 0)].into(),
                        ..Qlora::default()
                    }),
                    ..Method::default()
                };
            },
        );
        refuses("spec.method.lora.dropout is 1, expected 0 to 0.9", |spec| {
            spec.method.lora = Some(Lora {
                dropout: 1.0,
                ..Lora::default()
            });
        });
        refuses("spec.training.neftuneNoiseAlpha is 0", |spec| {
            spec.training.neftune_noise_alpha = Some(0.0);
        });
        refuses("spec.initialAdapter is set with method full", |spec| {
            spec.method = Method {
                full: Some(Full {}),
                ..Method::default()
            };
            spec.initial_adapter = Some(InitialAdapter {
                uri: "file:///adapter/".into(),
                credentials_secret_ref: None,
            });
        });
        let preference = |spec: &mut FineTuneJobSpec, beta| {
            spec.objective = Some(Objective {
                sft: None,
                dpo: Some(Dpo { beta }),
            });
        };
        refuses("spec.objective has neither sft nor dpo", |spec| {
            spec.objective = Some(Objective::default());
        });
        refuses("spec.objective has both sft and dpo", |spec| {
            spec.objective = Some(Objective {
                sft: Some(Sft {}),
                dpo: Some(Dpo::default()),
            });
        });
        refuses("spec.objective.dpo.beta is 0", |spec| preference(spec, 0.0));
        refuses("spec.objective.dpo is set with method full", |spec| {
            preference(spec, 0.1);
            spec.method = Method {
                full: Some(Full {}),
                ..Method::default()
            };
        });
        refuses(
            "spec.training.microBatchSize is set with objective dpo",
            |spec| {
                preference(spec, 0.1);
                spec.training.micro_batch_size = Some(2);
            },
        );
        refuses("spec.initialAdapter.uri is `adapter`", |spec| {
            spec.initial_adapter = Some(InitialAdapter {
                uri: "adapter".into(),
                credentials_secret_ref: None,
            });
        });
    }

    #[test]
    fn a_name_that_no_service_could_have_is_refused() {
        for name in ["", "1a", "a-", "A", &"a".repeat(53)] {
            assert_eq!(validate(name, &good()).len(), 1, "{name}");
        }
    }
}
