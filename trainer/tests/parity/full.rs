//! Full fine-tuning in fp32: the gradient of every weight, a tied embedding's from both its uses.

use rstest::rstest;
use tch::Kind;
use trainer::model::Storage;

use crate::fixture::{
    TOLERANCE, assert_close, assert_gradients, assert_near, base, batch, scalar, tensors, trained,
};

#[rstest]
#[case("tiny-llama")]
#[case("tiny-llama-bias")]
fn gradients_of_all_weights_equal_transformers(#[case] name: &str) {
    let expected = tensors(&format!("expected/full-{name}.safetensors"));
    let mut base = base(name, Kind::Float, Storage::Trained);
    let batch = batch(&expected["tokens"], &expected["labels"]);
    assert_close(
        "logits",
        &base.logits(None, &batch.tokens).unwrap(),
        &expected["logits"],
        TOLERANCE,
    );
    let tokens = trained(&batch);
    let sum = base.loss_and_gradient(None, &batch, 1.0 / tokens).unwrap();
    assert_near(
        "loss",
        sum.loss / tokens,
        scalar(&expected, "loss"),
        TOLERANCE,
    );
    assert_gradients(base.parameters().unwrap(), &expected, "grad.");
}

#[test]
fn bf16_trains_fp32_parameters() {
    let expected = tensors("expected/full-tiny-llama-bias.safetensors");
    let mut base = base("tiny-llama-bias", Kind::BFloat16, Storage::Trained);
    let batch = batch(&expected["tokens"], &expected["labels"]);
    let tokens = trained(&batch);
    let sum = base.loss_and_gradient(None, &batch, 1.0 / tokens).unwrap();
    assert_near("loss", sum.loss / tokens, scalar(&expected, "loss"), 1e-2);
    let parameters = base.parameters().unwrap();
    for parameter in parameters.list() {
        let gradient = parameters.gradient(parameter).unwrap();
        assert_close(
            &parameter.name,
            &gradient,
            &expected[&format!("grad.{}", parameter.name)],
            0.1,
        );
    }
}
