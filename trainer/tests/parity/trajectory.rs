//! Six optimiser steps: the losses and gradient norms of each, and where the parameters end.

use finetune_numerics::model::{Batch, Storage};
use finetune_numerics::optimizer::AdamW;
use tch::{IndexOp, Kind};

use crate::expected::{Expected, wrong_losses};
use crate::fixture::{adapter, base, batch, trained};

const STEPS: i64 = 6;

fn expected() -> Expected {
    crate::expected::expected("expected/trajectory-tiny-llama.safetensors")
}

fn step_batch(expected: &Expected, step: i64) -> Batch {
    batch(&expected["tokens"].i(step), &expected["labels"].i(step))
}

/// Trains the adapter; returns it, the losses and the gradient norms.
fn train(
    expected: &Expected,
    compute: Kind,
    weight_decay: f64,
    max_norm: f64,
) -> (finetune_numerics::adapter::Lora, Vec<f64>, Vec<f64>) {
    let base = base("tiny-llama", compute, Storage::Frozen);
    let mut lora = adapter("tiny-llama", "tiny-llama");
    let mut optimizer = AdamW::new(lora.parameters().count(), weight_decay);
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let batch = step_batch(expected, step);
        let tokens = trained(&batch);
        lora.parameters_mut().zero_gradients().unwrap();
        losses.push(
            base.loss_and_gradient(Some(&lora), &batch, 1.0 / tokens, None)
                .unwrap()
                .read()
                .unwrap()
                .loss
                / tokens,
        );
        norms.push(
            optimizer
                .step(lora.parameters_mut(), 1e-2, max_norm)
                .unwrap(),
        );
    }
    (lora, losses, norms)
}

#[test]
fn six_steps_equal_the_reference_with_and_without_weight_decay() {
    let expected = expected();
    for (prefix, weight_decay) in [("", 0.0), ("decay.", 0.1)] {
        let (lora, losses, norms) = train(&expected, Kind::Float, weight_decay, 1.0);
        for step in 0..STEPS {
            for (name, ours) in [("losses", &losses), ("grad_norms", &norms)] {
                expected.assert_number(&format!("{prefix}{name}"), step, ours[step as usize]);
            }
        }
        for parameter in lora.parameters().list() {
            let name = format!("{prefix}final.{}", parameter.name);
            expected.assert_close(&name, &lora.parameters().value(parameter).unwrap());
        }
    }
}

#[test]
fn without_clipping_the_losses_are_the_wrong_ones_of_the_reference() {
    let (_, losses, _) = train(&expected(), Kind::Float, 0.0, 0.0);
    let wrong = wrong_losses("expected/trajectory-mutations.json");
    for (step, loss) in losses.iter().enumerate() {
        let of_step = &wrong.report["no_clipping"]["losses"][step];
        wrong.assert_near(&format!("loss of step {step}"), *loss, of_step);
    }
}

#[test]
fn bf16_stays_near_the_losses_of_the_reference() {
    let expected = expected();
    let (_, losses, _) = train(&expected, Kind::BFloat16, 0.0, 1.0);
    for (step, loss) in losses.iter().enumerate() {
        expected.assert_number_in_bf16("losses", step as i64, *loss);
    }
}

#[test]
fn six_steps_of_full_fine_tuning_equal_the_reference() {
    let expected = expected();
    let mut base = base("tiny-llama", Kind::Float, Storage::Trained);
    let mut optimizer = AdamW::new(base.parameters().unwrap().count(), 0.0);
    for step in 0..STEPS {
        let batch = step_batch(&expected, step);
        let tokens = trained(&batch);
        base.parameters_mut().unwrap().zero_gradients().unwrap();
        let loss = base
            .loss_and_gradient(None, &batch, 1.0 / tokens, None)
            .unwrap()
            .read()
            .unwrap()
            .loss
            / tokens;
        let norm = optimizer
            .step(base.parameters_mut().unwrap(), 1e-3, 1.0)
            .unwrap();
        expected.assert_number("full.losses", step, loss);
        expected.assert_number("full.grad_norms", step, norm);
    }
}

#[test]
fn a_restored_optimiser_goes_on_to_the_last_bit() {
    let expected = expected();
    let whole = train(&expected, Kind::Float, 0.1, 1.0).0;

    let base = base("tiny-llama", Kind::Float, Storage::Frozen);
    let mut lora = adapter("tiny-llama", "tiny-llama");
    let mut optimizer = AdamW::new(lora.parameters().count(), 0.1);
    for step in 0..STEPS {
        if step == 3 {
            let (values, saved) = (
                lora.parameters().values().unwrap().to_vec(),
                optimizer.clone(),
            );
            lora = adapter("tiny-llama", "tiny-llama");
            lora.parameters_mut()
                .values_mut()
                .unwrap()
                .copy_from_slice(&values);
            optimizer = AdamW::new(lora.parameters().count(), 0.1);
            (
                optimizer.steps,
                optimizer.first_moment,
                optimizer.second_moment,
            ) = (saved.steps, saved.first_moment, saved.second_moment);
        }
        let batch = step_batch(&expected, step);
        lora.parameters_mut().zero_gradients().unwrap();
        base.loss_and_gradient(Some(&lora), &batch, 1.0 / trained(&batch), None)
            .unwrap();
        optimizer.step(lora.parameters_mut(), 1e-2, 1.0).unwrap();
    }
    assert!(lora.parameters().values().unwrap() == whole.parameters().values().unwrap());
}
