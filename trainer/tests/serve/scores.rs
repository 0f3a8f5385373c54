//! Log-probabilities over HTTP against the reference stack's logits, and cached generation against uncached.

use finetune_numerics::model::{Base, LoadOptions, Storage};
use rstest::rstest;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tch::{Kind, Tensor};
use trainer::base::BaseModelFiles;

use crate::client::{adapter_path, fixture, serve, server};
use crate::tolerance::Rounding;

/// Tokens (B, T) and log-probabilities (B, T, V) of an expectation of the reference stack, and how far ours may be from these.
fn expected(file: &str) -> (Tensor, Tensor, f64) {
    let rounding = Rounding::of(&format!("expected/{file}"));
    let bytes = std::fs::read(fixture("expected").join(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str, kind| {
        let view = file.tensor(name).unwrap();
        let shape: Vec<i64> = view.shape().iter().map(|size| *size as i64).collect();
        Tensor::from_data_size(view.data(), &shape, kind)
    };
    let logits = tensor("logits", Kind::Float);
    // A logarithm of a softmax moves by twice what the logits do, at most.
    let tolerance = 2.0 * rounding.single("logits") * logits.abs().max().double_value(&[]);
    let scores = logits.log_softmax(-1, Kind::Double);
    (tensor("tokens", Kind::Int64), scores, tolerance)
}

fn numbers(value: &Value) -> Vec<Option<f64>> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(Value::as_f64)
        .collect()
}

#[rstest]
#[case("full-tiny-llama.safetensors", "tiny", 0)]
#[case("lora-tiny-llama.safetensors", "support", 0)]
#[case("lora-tiny-llama-rslora.safetensors", "stabilised", 1)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echoed_prompt_has_the_log_probabilities_of_the_reference(
    #[case] file: &str,
    #[case] model: &str,
    #[case] more: usize,
) {
    let first = format!("support={}", adapter_path("tiny-llama"));
    let second = format!("stabilised={}", adapter_path("tiny-llama-rslora"));
    let server = server(&["--adapter", &first, "--adapter", &second]).await;
    let (tokens, logs, tolerance) = expected(file);
    for row in 0..tokens.size()[0] {
        let prompt = Vec::<i64>::try_from(tokens.get(row)).unwrap();
        let body = json!({ "model": model, "prompt": prompt, "echo": true, "logprobs": 2, "max_tokens": more, "temperature": 0 });
        let answer = server.complete(body).await;
        let scores = &answer["choices"][0]["logprobs"];
        let found = numbers(&scores["token_logprobs"]);
        assert_eq!(found.len(), prompt.len() + more);
        assert_eq!(found[0], None);
        for (place, token) in prompt.iter().enumerate().skip(1) {
            let wanted = logs.double_value(&[row, place as i64 - 1, *token]);
            let found = found[place].unwrap();
            assert!(
                (found - wanted).abs() < tolerance,
                "{model} row {row} token {place}: {found}, expected {wanted}"
            );
            let best = logs.get(row).get(place as i64 - 1).max().double_value(&[]);
            let alternatives = scores["top_logprobs"][place].as_object().unwrap();
            let likeliest = alternatives
                .values()
                .filter_map(Value::as_f64)
                .fold(f64::NEG_INFINITY, f64::max);
            assert!(
                (likeliest - best).abs() < tolerance,
                "{likeliest}, expected {best}"
            );
        }
        assert_eq!(answer["usage"]["prompt_tokens"], prompt.len());
        assert_eq!(answer["usage"]["completion_tokens"], more);
    }
}

#[rstest]
#[case("tiny-llama")]
#[case("tiny-llama-bias")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greedy_answer_is_what_the_model_says_without_a_cache(#[case] model: &str) {
    let files = BaseModelFiles::open(&fixture(model)).unwrap();
    let options = LoadOptions {
        compute: Kind::Float,
        storage: Storage::Frozen,
    };
    let base = Base::load(files.config(), files.weights().unwrap().as_ref(), &options).unwrap();
    let prompt = files
        .tokenizer()
        .encode_sequence("The capital of France")
        .unwrap();
    let mut tokens: Vec<i64> = prompt.iter().map(|token| i64::from(*token)).collect();
    let mut scores = Vec::new();
    for _ in 0..40 {
        let row = base
            .logits(None, &Tensor::from_slice(&tokens).unsqueeze(0))
            .unwrap();
        let row = row.get(0).get(-1).log_softmax(-1, Kind::Float);
        let next = row.argmax(-1, false).int64_value(&[]);
        scores.push(row.double_value(&[next]));
        tokens.push(next);
    }
    let answer: Vec<u32> = tokens[prompt.len()..]
        .iter()
        .map(|token| *token as u32)
        .collect();

    let server = serve(&fixture(model), &[]).await;
    let body = json!({
        "model": "tiny", "prompt": "The capital of France", "temperature": 0, "max_tokens": 40, "ignore_eos": true, "logprobs": 1,
    });
    let found = server.complete(body).await;
    let choice = &found["choices"][0];
    let whole = files
        .tokenizer()
        .decode(&[&prompt[..], &answer[..]].concat(), true)
        .unwrap();
    let before = files.tokenizer().decode(&prompt, true).unwrap();
    assert_eq!(choice["text"].as_str().unwrap(), &whole[before.len()..]);
    assert_eq!(choice["finish_reason"], "length");
    let found = numbers(&choice["logprobs"]["token_logprobs"]);
    assert_eq!(found.len(), scores.len());
    for (found, wanted) in found.iter().zip(scores) {
        assert!(
            (found.unwrap() - wanted).abs() < 1e-3,
            "{found:?}, expected {wanted}"
        );
    }
}
