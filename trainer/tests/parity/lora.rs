//! Base + adapter in fp32: loss, logits, the residual stream after each layer, gradients of every adapter tensor.

use finetune_numerics::model::Storage;
use rstest::rstest;
use tch::Kind;

use crate::expected::expected;
use crate::fixture::{adapter, adapter_tensors, assert_near, base, batch, config, trained};

#[rstest]
#[case("tiny-llama", "tiny-llama")]
#[case("tiny-llama-rslora", "tiny-llama")]
#[case("tiny-llama-bias", "tiny-llama-bias")]
#[case("tiny-llama-64", "tiny-llama-64")]
fn adapter_on_a_frozen_base_equals_peft(#[case] name: &str, #[case] model: &str) {
    let expected = expected(&format!("expected/lora-{name}.safetensors"));
    let base = base(model, Kind::Float, Storage::Frozen);
    let lora = adapter(name, model);
    let batch = batch(&expected["tokens"], &expected["labels"]);

    let logits = base.logits(Some(&lora), &batch.tokens).unwrap();
    expected.assert_close("logits", &logits);

    let states = base.hidden_states(Some(&lora), &batch.tokens).unwrap();
    assert_eq!(states.len() as i64, base.config().layers + 2);
    for (index, state) in states.iter().enumerate() {
        let name = if index == states.len() - 1 {
            "hidden.norm".to_owned()
        } else {
            format!("hidden.{index}")
        };
        expected.assert_close(&name, state);
    }

    let tokens = trained(&batch);
    let sum = base
        .loss_and_gradient(Some(&lora), &batch, 1.0 / tokens, None)
        .unwrap()
        .read()
        .unwrap();
    assert_eq!(sum.tokens as f64, tokens);
    expected.assert_near("loss", sum.loss / tokens);
    expected.assert_gradients(lora.parameters(), "grad.");
    let without_gradient = base
        .loss(Some(&lora), &batch, None)
        .unwrap()
        .read()
        .unwrap();
    assert_near(
        "loss without gradient",
        without_gradient.loss,
        sum.loss,
        1e-12,
    );
}

#[rstest]
#[case("tiny-llama")]
#[case("tiny-llama-bias")]
#[case("tiny-llama-64")]
fn padded_rows_equal_the_reference_whatever_lies_in_the_padding(#[case] name: &str) {
    let expected = expected(&format!("expected/lora-{name}.safetensors"));
    let base = base(name, Kind::Float, Storage::Frozen);
    let lora = adapter(name, name);
    let batch = batch(&expected["ragged.tokens"], &expected["ragged.labels"]);
    let tokens = trained(&batch);
    let sum = base
        .loss_and_gradient(Some(&lora), &batch, 1.0 / tokens, None)
        .unwrap()
        .read()
        .unwrap();
    expected.assert_near("ragged.loss", sum.loss / tokens);
    expected.assert_gradients(lora.parameters(), "ragged.grad.");
}

#[test]
fn gradients_of_micro_batches_add_up_to_those_of_the_batch() {
    let expected = expected("expected/lora-tiny-llama.safetensors");
    let base = base("tiny-llama", Kind::Float, Storage::Frozen);
    let lora = adapter("tiny-llama", "tiny-llama");
    let whole = batch(&expected["ragged.tokens"], &expected["ragged.labels"]);
    let tokens = trained(&whole);
    for row in 0..3 {
        let length = expected["ragged.lengths"].int64_value(&[row]);
        let cut = |tensor: &tch::Tensor| tensor.narrow(0, row, 1).narrow(1, 0, length);
        let row = batch(
            &cut(&expected["ragged.tokens"]),
            &cut(&expected["ragged.labels"]),
        );
        base.loss_and_gradient(Some(&lora), &row, 1.0 / tokens, None)
            .unwrap();
    }
    expected.assert_gradients(lora.parameters(), "ragged.grad.");
}

#[test]
fn the_same_pass_gives_the_same_bits() {
    let expected = expected("expected/lora-tiny-llama.safetensors");
    let batch = batch(&expected["tokens"], &expected["labels"]);
    let run = || {
        let lora = adapter("tiny-llama", "tiny-llama");
        let base = base("tiny-llama", Kind::Float, Storage::Frozen);
        let sum = base
            .loss_and_gradient(Some(&lora), &batch, 0.05, None)
            .unwrap()
            .read()
            .unwrap();
        let gradients: Vec<u32> = lora
            .parameters()
            .gradients()
            .unwrap()
            .iter()
            .map(|x| x.to_bits())
            .collect();
        (sum.loss.to_bits(), gradients)
    };
    assert!(run() == run());
}

/// peft in bf16 rounds y + delta; ours adds the delta in the accumulator, so it is held to what is right.
#[test]
fn bf16_follows_the_reference() {
    let expected = expected("expected/lora-tiny-llama.safetensors");
    let base = base("tiny-llama", Kind::BFloat16, Storage::Frozen);
    let lora = adapter("tiny-llama", "tiny-llama");
    let batch = batch(&expected["tokens"], &expected["labels"]);
    let tokens = trained(&batch);
    let sum = base
        .loss_and_gradient(Some(&lora), &batch, 1.0 / tokens, None)
        .unwrap()
        .read()
        .unwrap();
    expected.assert_number_in_bf16("loss", 0, sum.loss / tokens);
    expected.assert_gradients_in_bf16(lora.parameters(), "grad.");
}

#[test]
fn a_fresh_adapter_changes_nothing_and_has_peft_names_and_bounds() {
    let settings = finetune_numerics::adapter::LoraSettings {
        rank: 4,
        alpha: 8,
        ..finetune_numerics::adapter::LoraSettings::default()
    };
    let config = config("tiny-llama");
    let lora = finetune_numerics::adapter::Lora::new(&config, &settings, 7).unwrap();
    let names: std::collections::BTreeSet<_> = lora
        .parameters()
        .list()
        .iter()
        .map(|p| p.name.clone())
        .collect();
    assert_eq!(names, adapter_tensors("tiny-llama").into_keys().collect());
    for parameter in lora.parameters().list() {
        let value = lora.parameters().value(parameter).unwrap();
        let largest = value.abs().max().double_value(&[]);
        if parameter.name.contains("lora_B") {
            assert_eq!(largest, 0.0, "{}", parameter.name);
        } else {
            // 4 x 32 or more uniform numbers: the largest is close to the bound, the mean to 0.
            let bound = 1.0 / (parameter.shape[1] as f64).sqrt();
            assert!(
                (0.9 * bound..=bound).contains(&largest),
                "{}: {largest} of {bound}",
                parameter.name
            );
            assert!(
                value.mean(Kind::Double).double_value(&[]).abs() < 0.25 * bound,
                "{}",
                parameter.name
            );
        }
    }

    let expected = expected("expected/full-tiny-llama.safetensors");
    let base = base("tiny-llama", Kind::Float, Storage::Frozen);
    let logits = base.logits(Some(&lora), &expected["tokens"]).unwrap();
    expected.assert_close("logits", &logits);
}

#[test]
fn the_seed_and_the_name_alone_decide_a_fresh_tensor() {
    let config = config("tiny-llama");
    let fresh = |targets: &[&str], seed| {
        let target_modules = targets.iter().map(ToString::to_string).collect();
        let settings = finetune_numerics::adapter::LoraSettings {
            rank: 4,
            alpha: 8,
            target_modules,
            ..finetune_numerics::adapter::LoraSettings::default()
        };
        let lora = finetune_numerics::adapter::Lora::new(&config, &settings, seed).unwrap();
        let parameters = lora.parameters();
        let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
        Vec::<Vec<f32>>::try_from(parameters.value(parameters.find(name).unwrap()).unwrap())
            .unwrap()
    };
    assert_eq!(fresh(&["all-linear"], 1), fresh(&["q_proj", "v_proj"], 1));
    assert_ne!(fresh(&["all-linear"], 1), fresh(&["all-linear"], 2));
}

#[rstest]
#[case(&["q_proj"], 3)]
#[case(&["self_attn.q_proj", "v_proj"], 6)]
#[case(&["model.layers.1.mlp.down_proj"], 1)]
#[case(&["all-linear"], 21)]
fn target_modules_are_matched_at_the_end_of_the_name(
    #[case] targets: &[&str],
    #[case] modules: usize,
) {
    let target_modules = targets.iter().map(ToString::to_string).collect();
    let settings = finetune_numerics::adapter::LoraSettings {
        rank: 4,
        alpha: 8,
        target_modules,
        ..finetune_numerics::adapter::LoraSettings::default()
    };
    let lora = finetune_numerics::adapter::Lora::new(&config("tiny-llama"), &settings, 0).unwrap();
    assert_eq!(lora.parameters().list().len(), 2 * modules);
}

#[rstest]
#[case("proj")]
#[case("lm_head")]
#[case("q_porj")]
fn a_target_that_names_no_layer_is_refused(#[case] target: &str) {
    let settings = finetune_numerics::adapter::LoraSettings {
        rank: 4,
        alpha: 8,
        target_modules: vec!["q_proj".to_owned(), target.to_owned()],
        ..finetune_numerics::adapter::LoraSettings::default()
    };
    let error = finetune_numerics::adapter::Lora::new(&config("tiny-llama"), &settings, 0)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("`{target}`")) && error.contains("all-linear"),
        "{error}"
    );
}

#[test]
fn an_adapter_that_does_not_fit_is_refused() {
    let config = config("tiny-llama");
    let whole = adapter_tensors("tiny-llama");
    let load = |change: &dyn Fn(&mut crate::fixture::Tensors)| {
        let mut tensors = whole
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect();
        change(&mut tensors);
        finetune_numerics::adapter::Lora::from_tensors(&config, &|_| 2.0, &tensors)
            .unwrap_err()
            .to_string()
    };
    let name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight";
    let error = load(&|tensors| drop(tensors.remove(name)));
    assert!(error.contains(name) && error.contains("missing"), "{error}");
    let error = load(&|tensors| {
        drop(tensors.insert(
            "base_model.model.lm_head.lora_A.weight".to_owned(),
            tch::Tensor::from(1),
        ));
    });
    assert!(error.contains("lm_head"), "{error}");
    let error = load(&|tensors| {
        drop(tensors.insert(
            name.to_owned(),
            tch::Tensor::zeros([48, 5], (Kind::Float, tch::Device::Cpu)),
        ));
    });
    assert!(error.contains(name) && error.contains("[48, 5]"), "{error}");
    let error = load(&|tensors| tensors.clear());
    assert!(error.contains("none of its 0 tensors"), "{error}");
}
