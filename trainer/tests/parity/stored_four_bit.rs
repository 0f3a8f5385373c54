//! Bases that transformers + bitsandbytes saved in 4 bits: taken over as they are, and the loss is the reference's.

use std::path::PathBuf;

use finetune_numerics::model::{Base, LoadOptions, Storage};
use finetune_numerics::ops::four_bit::Code;
use rstest::rstest;
use tch::Kind;
use trainer::base::BaseModelFiles;

use crate::expected::expected;
use crate::fixture::{adapter, assert_equal, batch, tensors, trained};

fn open(name: &str) -> BaseModelFiles {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    BaseModelFiles::open(&fixtures.join(name)).unwrap()
}

fn load(
    files: &BaseModelFiles,
    compute: Kind,
    storage: Storage,
) -> finetune_numerics::ops::Result<Base> {
    let weights = files.weights().unwrap();
    Base::load(
        files.config(),
        weights.as_ref(),
        &LoadOptions { compute, storage },
    )
}

/// How the fixture is saved: code, and whether its scales are quantised.
fn storage_of(files: &BaseModelFiles) -> Storage {
    let quantization = files.quantization().unwrap();
    Storage::FourBit {
        code: quantization.code,
        double_quantization: quantization.double_quantization,
    }
}

#[rstest]
#[case("tiny-llama-64-nf4", Code::Nf4, true)]
#[case("tiny-llama-64-fp4", Code::Fp4, false)]
fn loss_and_gradients_on_a_base_saved_in_4_bits_equal_the_reference(
    #[case] name: &str,
    #[case] code: Code,
    #[case] double_quantization: bool,
) {
    let expected = expected(&format!("expected/bnb-{name}.safetensors"));
    let files = open(name);
    let storage = storage_of(&files);
    assert_eq!(
        storage,
        Storage::FourBit {
            code,
            double_quantization
        }
    );
    let base = load(&files, Kind::Float, storage).unwrap();
    let batch = batch(&expected["tokens"], &expected["labels"]);
    let tokens = trained(&batch);
    let loss = base.loss(None, &batch, None).unwrap().read().unwrap().loss / tokens;
    expected.assert_near("loss", loss);
    let logits = base.logits(None, &batch.tokens).unwrap();
    expected.assert_close("logits", &logits);

    let lora = adapter("tiny-llama-64", "tiny-llama-64");
    let sum = base
        .loss_and_gradient(Some(&lora), &batch, 1.0 / tokens, None)
        .unwrap()
        .read()
        .unwrap();
    expected.assert_near("adapter.loss", sum.loss / tokens);
    expected.assert_gradients(lora.parameters(), "adapter.grad.");
}

#[rstest]
#[case("tiny-llama-64-nf4")]
#[case("tiny-llama-64-fp4")]
fn codes_of_a_base_saved_in_4_bits_are_taken_over_as_they_are(#[case] name: &str) {
    let files = open(name);
    let weights = files.weights().unwrap();
    let stored = tensors(&format!("{name}/model.safetensors"));
    let mut seen = 0;
    for key in weights.names() {
        if let Some(matrix) = weights.four_bit(&key).unwrap() {
            assert_equal(&key, matrix.codes(), &stored[&key].reshape([-1]));
            let dense = weights.tensor(&key).unwrap_err().to_string();
            assert!(dense.contains("is in 4 bits"), "{dense}");
            seen += 1;
        }
    }
    assert_eq!(seen, 14);
}

/// Serving holds the base as it is saved; quantising what is quantised, or training it, is refused or has no meaning.
#[test]
fn a_base_saved_in_4_bits_is_served_so_and_cannot_be_trained_whole() {
    let files = open("tiny-llama-64-nf4");
    let expected = expected("expected/bnb-tiny-llama-64-nf4.safetensors");
    let base = load(&files, Kind::Float, Storage::Frozen).unwrap();
    let logits = base.logits(None, &expected["tokens"]).unwrap();
    expected.assert_close("logits", &logits);

    let error = load(&files, Kind::Float, Storage::Trained)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("saved in 4 bits") && error.contains("use method qlora"),
        "{error}"
    );
}
