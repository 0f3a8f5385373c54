//! What holds of a rule beside the refusals of `crds/tests/refusals.yaml`.

use finetune_crds::fine_tune_job::{
    BaseModel, Checkpoint, Dataset, Lora, Method, Placement, Source, Training,
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

#[test]
fn a_good_spec_has_no_fault() {
    assert_eq!(validate("job", &good()), []);
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
