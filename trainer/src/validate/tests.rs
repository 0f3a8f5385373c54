use finetune_crds::fine_tune_job::{
    BaseModel, Checkpoint, Columns, Dataset, Dpo, EarlyStopping, Format, Full, InitialAdapter,
    Lora, Method, Objective, Output, OutputAdapter, Placement, Qlora, Replay, Sft, Source,
    Training, Validation,
};
use rstest::rstest;
use serde_json::{Value, json};

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
    let with_gguf = |spec: &mut FineTuneJobSpec, method: Value| {
        spec.method = serde_json::from_value(method).unwrap();
        spec.output = Some(Output {
            gguf_adapter: true,
            ..Output::default()
        });
    };
    refuses("spec.output.ggufAdapter is true with method full", |spec| {
        with_gguf(spec, json!({ "full": {} }));
    });
    for method in ["lora", "qlora"] {
        refuses("spec.output.ggufAdapter is true with useDora", |spec| {
            with_gguf(spec, json!({ method: { "useDora": true } }));
        });
    }
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

#[rstest]
#[case("VLLM", json!({ "useDora": true }), "spec.method.lora.useDora is true, but VLLM serves no DoRA")]
#[case("SGLang", json!({ "useDora": true }), "spec.method.lora.useDora is true, but SGLang serves no DoRA")]
#[case("VLLM", json!({ "rank": 513 }), "spec.method.lora.rank is 513, but VLLM serves ranks of up to 512")]
#[case(
    "VLLM",
    json!({ "rankPattern": { "q_proj": 600 } }),
    "spec.method.lora.rankPattern is 600, but VLLM serves ranks of up to 512"
)]
#[case(
    "SGLang",
    json!({ "rank": 16, "alpha": 32, "useRslora": true }),
    "spec.method.lora.useRslora is true, but SGLang scales by alpha / rank: set it to false and alpha to 128"
)]
#[case(
    "SGLang",
    json!({ "rankPattern": { "q_proj": 8 } }),
    "spec.method.lora.rankPattern has `q_proj: 8`, but SGLang knows one rank"
)]
#[case(
    "SGLang",
    json!({ "alphaPattern": { "q_proj": 8 } }),
    "spec.method.lora.alphaPattern has `q_proj: 8`, but SGLang knows one rank"
)]
fn an_adapter_that_an_engine_cannot_serve_is_refused_for_it_alone(
    #[case] engine: &str,
    #[case] lora: Value,
    #[case] message: &str,
) {
    let spec = |engines: &[&str]| {
        let mut spec = good();
        spec.method = serde_json::from_value(json!({ "lora": lora.clone() })).unwrap();
        let output = json!({ "adapter": { "engines": engines } });
        spec.output = Some(serde_json::from_value(output).unwrap());
        spec
    };
    let faults = validate("job", &spec(&["Finetune", engine]));
    let [fault] = faults.as_slice() else {
        panic!("expected one fault, got {faults:?}")
    };
    let text = fault.to_string();
    assert!(text.starts_with(message), "{text}");
    let cure = format!("or remove {engine} from spec.output.adapter.engines");
    assert!(text.ends_with(&cure), "{text}");
    assert!(validate("job", &spec(&["Finetune"])).is_empty());
}

#[test]
fn an_engine_named_twice_is_refused() {
    let mut spec = good();
    let output = json!({ "adapter": { "engines": ["VLLM", "SGLang", "VLLM"] } });
    spec.output = Some(serde_json::from_value(output).unwrap());
    let faults = validate("job", &spec);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].to_string().contains("has VLLM twice"));
}
