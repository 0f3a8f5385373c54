//! Training on a base that is saved in 4 bits: with the method and the quantisation that it is saved in, and no other.

use rstest::rstest;
use serde_json::{Value, json};

use crate::bench::Bench;

fn with(base: &str, method: &Value) -> Bench {
    Bench::with(base, |job| {
        job["spec"]["method"] = method.clone();
        job["spec"]["training"]["maxSteps"] = 3.into();
    })
}

fn qlora(code: &str, double_quantization: bool) -> Value {
    json!({ "qlora": {
        "rank": 4,
        "quantization": { "type": code, "doubleQuantization": double_quantization },
    }})
}

#[rstest]
#[case("tiny-llama-64-nf4", "NF4", true)]
#[case("tiny-llama-64-fp4", "FP4", false)]
fn an_adapter_is_trained_on_a_base_saved_in_4_bits(
    #[case] base: &str,
    #[case] code: &str,
    #[case] double_quantization: bool,
) {
    let bench = with(base, &qlora(code, double_quantization));
    bench.run("train").succeeded();
    let [version]: [std::path::PathBuf; 1] = bench.versions().try_into().unwrap();
    assert!(version.join("adapter_model.safetensors").exists());
}

#[test]
fn an_adapter_is_trained_in_fp4_on_a_dense_base() {
    let bench = with("tiny-llama-64", &qlora("FP4", true));
    bench.run("train").succeeded();
    assert_eq!(bench.versions().len(), 1);
}

#[test]
fn nothing_is_merged_into_a_base_that_is_saved_in_4_bits_and_that_is_said_before_training() {
    let words = [
        "spec.output.mergedModel is true",
        "is saved in 4 bits",
        "set it to false",
    ];
    let merged = Bench::with("tiny-llama-64-nf4", |job| {
        job["spec"]["method"] = qlora("NF4", true);
        job["spec"]["output"] = json!({ "mergedModel": true });
    });
    merged.run("prepare").refused(&words);
    let bench = with("tiny-llama-64-nf4", &qlora("NF4", true));
    bench.run("train").succeeded();
    bench
        .run("merge")
        .refused(&["spec.baseModel.uri", "nothing is merged into 4 bits"]);
}

#[rstest]
#[case(json!({ "lora": { "rank": 4 } }), &["spec.method is lora", "NF4 with double quantisation", "use method qlora"])]
#[case(json!({ "full": {} }), &["spec.method is full", "use method qlora"])]
#[case(qlora("FP4", true), &["asks for FP4 with double quantisation", "set type: NF4 and doubleQuantization: true"])]
#[case(qlora("NF4", false), &["asks for NF4 without double quantisation", "set type: NF4 and doubleQuantization: true"])]
fn another_method_or_quantisation_than_the_base_is_saved_in_is_refused_before_training(
    #[case] method: Value,
    #[case] words: &[&str],
) {
    let bench = with("tiny-llama-64-nf4", &method);
    bench.run("prepare").refused(words);
    assert!(bench.versions().is_empty());
}
