//! Serving's passes against the one that training uses: with a cache, token by token, and over a given text.

use finetune_numerics::model::{LogitRows, Storage, score_layer_by_layer};
use rstest::rstest;
use tch::{Kind, Tensor};

use crate::families::{Family, expected, for_every_family};
use crate::fixture::{adapter, assert_close, base};

#[rstest]
#[case("tiny-llama", 12)]
#[case("tiny-llama-bias", 1)]
#[case("tiny-llama-bias", 5)]
fn a_cache_changes_no_logit(#[case] name: &str, #[case] at_once: usize) {
    let expected = crate::expected::expected(&format!("expected/lora-{name}.safetensors"));
    let base = base(name, Kind::Float, Storage::Frozen);
    let lora = adapter(name, name);
    let row = expected["tokens"].get(0);
    let tokens = Vec::<i64>::try_from(&row).unwrap();
    let mut cache = base.new_cache(12);
    let mut rows = Vec::new();
    for chunk in tokens.chunks(at_once) {
        rows.push(
            base.forward_cached(Some(&lora), chunk, &mut cache, LogitRows::All)
                .unwrap(),
        );
    }
    assert_eq!(cache.length(), 12);
    let (logits, tolerance) = (expected["logits"].get(0), expected.tolerance("logits"));
    assert_close("logits", &Tensor::cat(&rows, 0), &logits, tolerance);

    let mut cache = base.new_cache(12);
    let last = base
        .forward_cached(Some(&lora), &tokens, &mut cache, LogitRows::Last)
        .unwrap();
    assert_close("last", &last, &logits.narrow(0, 11, 1), tolerance);
    let error = base
        .forward_cached(Some(&lora), &[1], &mut cache, LogitRows::Last)
        .unwrap_err()
        .to_string();
    assert!(error.contains("13 tokens"), "{error}");
}

#[test]
fn log_probabilities_are_those_of_the_reference_logits() {
    let expected = crate::expected::expected("expected/lora-tiny-llama.safetensors");
    let base = base("tiny-llama", Kind::Float, Storage::Frozen);
    let lora = adapter("tiny-llama", "tiny-llama");
    let tokens = Vec::<i64>::try_from(expected["tokens"].get(1)).unwrap();
    let ours = base.log_probabilities(Some(&lora), &tokens).unwrap();
    let reference = expected["logits"].get(1).log_softmax(-1, Kind::Double);
    assert_eq!(ours.len(), tokens.len() - 1);
    // A logarithm of a softmax moves by twice what the logits do, at most.
    let largest = expected["logits"].abs().max().double_value(&[]);
    let tolerance = 2.0 * expected.tolerance("logits") * largest;
    for (position, ours) in ours.iter().enumerate() {
        let right = reference.double_value(&[position as i64, tokens[position + 1]]);
        let off = (ours - right).abs();
        assert!(
            off <= tolerance,
            "log-probability {position} is {ours}, expected {right}"
        );
    }
}

#[test]
fn tokens_of_another_vocabulary_are_refused() {
    let base = base("tiny-llama", Kind::Float, Storage::Frozen);
    for token in [320, -1] {
        let error = base
            .log_probabilities(None, &[1, token])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&token.to_string()) && error.contains("319"),
            "{error}"
        );
    }
}

for_every_family! {
    /// What `golden.json` of a base that was quantised for training rests on.
    fn layer_by_layer_log_probabilities_are_those_of_the_whole_base_to_the_bit(name) {
        let family = Family::open(name);
        let (expected, _) = expected(name);
        let rows = Vec::<Vec<i64>>::try_from(&expected["tokens"]).unwrap();
        let texts = vec![rows[0].clone(), rows[1][..5].to_vec(), rows[1].clone()];
        for compute in [Kind::Float, Kind::BFloat16] {
            let whole = family.base(compute, Storage::Frozen);
            let weights = family.files.weights().unwrap();
            let config = family.files.config();
            let found =
                score_layer_by_layer(config, weights.as_ref(), compute, &family.lora, &texts)
                    .unwrap();
            assert_eq!(found.len(), texts.len());
            for (found, text) in found.iter().zip(&texts) {
                assert_eq!(found.base, whole.log_probabilities(None, text).unwrap());
                let adapted = whole.log_probabilities(Some(&family.lora), text).unwrap();
                assert_eq!(found.adapter, adapted);
                assert_ne!(found.adapter, found.base);
            }
        }
    }
}
