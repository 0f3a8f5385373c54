//! Full fine-tuning in fp32: the gradient of every weight, a tied embedding's from both its uses.

use finetune_numerics::model::Storage;
use rstest::rstest;
use tch::Kind;

use crate::expected::expected;
use crate::fixture::{base, batch, trained};

#[rstest]
#[case("tiny-llama")]
#[case("tiny-llama-bias")]
fn gradients_of_all_weights_equal_transformers(#[case] name: &str) {
    let expected = expected(&format!("expected/full-{name}.safetensors"));
    let base = base(name, Kind::Float, Storage::Trained);
    let batch = batch(&expected["tokens"], &expected["labels"]);
    expected.assert_close("logits", &base.logits(None, &batch.tokens).unwrap());
    let tokens = trained(&batch);
    let sum = base
        .loss_and_gradient(None, &batch, 1.0 / tokens, None)
        .unwrap()
        .read()
        .unwrap();
    expected.assert_near("loss", sum.loss / tokens);
    expected.assert_gradients(base.parameters().unwrap(), "grad.");
}

#[test]
fn bf16_trains_fp32_parameters() {
    let expected = expected("expected/full-tiny-llama-bias.safetensors");
    let base = base("tiny-llama-bias", Kind::BFloat16, Storage::Trained);
    let batch = batch(&expected["tokens"], &expected["labels"]);
    let tokens = trained(&batch);
    let sum = base
        .loss_and_gradient(None, &batch, 1.0 / tokens, None)
        .unwrap()
        .read()
        .unwrap();
    expected.assert_number_in_bf16("loss", 0, sum.loss / tokens);
    expected.assert_gradients_in_bf16(base.parameters().unwrap(), "grad.");
}
