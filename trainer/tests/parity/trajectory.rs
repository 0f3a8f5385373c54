//! Six optimiser steps: the losses and gradient norms of each, and where the parameters end.

use tch::{IndexOp, Kind};
use trainer::model::{Batch, Storage};
use trainer::optimizer::{AdamW, clip_gradient_norm};

use crate::fixture::{
    TOLERANCE, Tensors, adapter, assert_close, assert_near, base, batch, json, tensors, trained,
};

/// AdamW divides a gradient by its own size, so that a difference of the last bits grows.
const FINAL_TOLERANCE: f64 = 1e-3;

const STEPS: i64 = 6;

fn expected() -> Tensors {
    tensors("expected/trajectory-tiny-llama.safetensors")
}

fn step_batch(expected: &Tensors, step: i64) -> Batch {
    batch(&expected["tokens"].i(step), &expected["labels"].i(step))
}

/// Trains the adapter; returns it, the losses and the gradient norms.
fn train(
    expected: &Tensors,
    compute: Kind,
    weight_decay: f64,
    max_norm: f64,
) -> (trainer::method::Lora, Vec<f64>, Vec<f64>) {
    let mut base = base("tiny-llama", compute, Storage::Frozen);
    let mut lora = adapter("tiny-llama", "tiny-llama");
    let mut optimizer = AdamW::new(lora.parameters().count(), weight_decay);
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let batch = step_batch(expected, step);
        let tokens = trained(&batch);
        lora.parameters_mut().zero_gradients().unwrap();
        losses.push(
            base.loss_and_gradient(Some(&mut lora), &batch, 1.0 / tokens)
                .unwrap()
                .loss
                / tokens,
        );
        norms.push(clip_gradient_norm(lora.parameters_mut(), max_norm).unwrap());
        optimizer.step(lora.parameters_mut(), 1e-2).unwrap();
    }
    (lora, losses, norms)
}

#[test]
fn six_steps_equal_the_reference_with_and_without_weight_decay() {
    let expected = expected();
    for (prefix, weight_decay) in [("", 0.0), ("decay.", 0.1)] {
        let (lora, losses, norms) = train(&expected, Kind::Float, weight_decay, 1.0);
        for step in 0..STEPS {
            let at = |name: &str| expected[&format!("{prefix}{name}")].double_value(&[step]);
            assert_near(
                &format!("{prefix} loss of step {step}"),
                losses[step as usize],
                at("losses"),
                TOLERANCE,
            );
            assert_near(
                &format!("{prefix} norm of step {step}"),
                norms[step as usize],
                at("grad_norms"),
                1e-4,
            );
        }
        for parameter in lora.parameters().list() {
            let name = format!("{prefix}final.{}", parameter.name);
            assert_close(
                &name,
                &lora.parameters().value(parameter).unwrap(),
                &expected[&name],
                FINAL_TOLERANCE,
            );
        }
    }
}

#[test]
fn without_clipping_the_losses_are_the_wrong_ones_of_the_reference() {
    let (_, losses, _) = train(&expected(), Kind::Float, 0.0, 0.0);
    let wrong = &json("expected/trajectory-mutations.json")["no_clipping"]["losses"];
    for (step, loss) in losses.iter().enumerate() {
        assert_near(
            &format!("loss of step {step}"),
            *loss,
            wrong[step].as_f64().unwrap(),
            1e-4,
        );
    }
}

#[test]
fn bf16_stays_near_the_fp32_losses() {
    let expected = expected();
    let (_, losses, _) = train(&expected, Kind::BFloat16, 0.0, 1.0);
    for (step, loss) in losses.iter().enumerate() {
        let right = expected["losses"].double_value(&[step as i64]);
        assert_near(&format!("loss of step {step}"), *loss, right, 2e-2);
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
            .loss_and_gradient(None, &batch, 1.0 / tokens)
            .unwrap()
            .loss
            / tokens;
        let norm = clip_gradient_norm(base.parameters_mut().unwrap(), 1.0).unwrap();
        optimizer
            .step(base.parameters_mut().unwrap(), 1e-3)
            .unwrap();
        assert_near(
            &format!("loss of step {step}"),
            loss,
            expected["full.losses"].double_value(&[step]),
            TOLERANCE,
        );
        assert_near(
            &format!("norm of step {step}"),
            norm,
            expected["full.grad_norms"].double_value(&[step]),
            1e-4,
        );
    }
}

#[test]
fn a_restored_optimiser_goes_on_to_the_last_bit() {
    let expected = expected();
    let whole = train(&expected, Kind::Float, 0.1, 1.0).0;

    let mut base = base("tiny-llama", Kind::Float, Storage::Frozen);
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
        base.loss_and_gradient(Some(&mut lora), &batch, 1.0 / trained(&batch))
            .unwrap();
        clip_gradient_norm(lora.parameters_mut(), 1.0).unwrap();
        optimizer.step(lora.parameters_mut(), 1e-2).unwrap();
    }
    assert!(lora.parameters().values().unwrap() == whole.parameters().values().unwrap());
}
