//! AdamW with 8-bit state against bitsandbytes': the maps of codes, the losses of six steps, and the state after them.

use finetune_crds::fine_tune_job;
use tch::{IndexOp, Kind};
use trainer::model::{Base, Storage};
use trainer::optimizer::{DynamicMap, Optimizer, clip_gradient_norm};

use crate::fixture::{Tensors, assert_close, assert_near, base, batch, distance, tensors, trained};

const STEPS: i64 = 6;
const KEPT: &str = "model.layers.0.mlp.down_proj.weight";

fn expected() -> Tensors {
    tensors("expected/adamw-8bit.safetensors")
}

/// Trains all of tiny-llama-64; returns it, the optimiser and the losses.
fn train(
    expected: &Tensors,
    kind: fine_tune_job::Optimizer,
    weight_decay: f64,
) -> (Base, Optimizer, Vec<f64>) {
    let mut base = base("tiny-llama-64", Kind::Float, Storage::Trained);
    let mut optimizer = Optimizer::new(kind, base.parameters().unwrap(), weight_decay);
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let batch = batch(&expected["tokens"].i(step), &expected["labels"].i(step));
        let tokens = trained(&batch);
        base.parameters_mut().unwrap().zero_gradients().unwrap();
        let loss = base.loss_and_gradient(None, &batch, 1.0 / tokens).unwrap();
        losses.push(loss.loss / tokens);
        clip_gradient_norm(base.parameters_mut().unwrap(), 1.0).unwrap();
        optimizer
            .step(base.parameters_mut().unwrap(), 1e-2)
            .unwrap();
    }
    (base, optimizer, losses)
}

fn assert_losses(name: &str, losses: &[f64], expected: &tch::Tensor, tolerance: f64) {
    for (step, loss) in losses.iter().enumerate() {
        let right = expected.double_value(&[step as i64]);
        assert_near(&format!("{name} of step {step}"), *loss, right, tolerance);
    }
}

#[test]
fn the_maps_are_bitsandbytes() {
    let expected = expected();
    for (name, map) in [
        ("signed_map", DynamicMap::signed()),
        ("unsigned_map", DynamicMap::unsigned()),
    ] {
        let right = Vec::<f32>::try_from(&expected[name]).unwrap();
        for (code, (ours, right)) in map.values().iter().zip(&right).enumerate() {
            // torch's linspace adds in another order on some processors.
            let unit = f32::EPSILON * right.abs();
            assert!(
                (ours - right).abs() <= 2.0 * unit,
                "{name}[{code}]: {ours} and {right}"
            );
        }
    }
}

#[test]
fn six_steps_equal_bitsandbytes_with_and_without_weight_decay() {
    let expected = expected();
    let kind = fine_tune_job::Optimizer::AdamW8bit;
    let (base, optimizer, losses) = train(&expected, kind, 0.0);
    assert_losses("loss", &losses, &expected["nearest.losses"], 1e-4);
    // Its kernel for CPUs takes a code near the nearest one.
    assert_losses("loss on a CPU", &losses, &expected["losses"], 1e-3);

    let parameters = base.parameters().unwrap();
    let before = crate::fixture::weights("tiny-llama-64");
    for (name, tolerance) in [(KEPT, 2e-2), ("model.norm.weight", 1e-3)] {
        let after = parameters.value(parameters.find(name).unwrap()).unwrap();
        assert_close(
            name,
            &(after - &before[name]),
            &expected[&format!("moved.{name}")],
            tolerance,
        );
    }
    assert_state(&base, &optimizer, &expected);

    let (_, _, losses) = train(&expected, kind, 0.1);
    assert_losses(
        "loss with decay",
        &losses,
        &expected["nearest.decay.losses"],
        1e-4,
    );
}

/// The codes and scales of one tensor: nearly all codes equal, none far.
fn assert_state(base: &Base, optimizer: &Optimizer, expected: &Tensors) {
    // Coded tensors lie one after the other, in the order of the parameters.
    let coded =
        |name: &str, length: usize| length >= 4096 && !name.ends_with("embed_tokens.weight");
    let list = base.parameters().unwrap().list();
    let before = list.iter().take_while(|parameter| parameter.name != KEPT);
    let start: usize = before
        .filter(|parameter| coded(&parameter.name, parameter.length()))
        .map(trainer::optimizer::Parameter::length)
        .sum();
    let state: std::collections::BTreeMap<_, _> = optimizer.state().into_iter().collect();
    let maps = [DynamicMap::signed(), DynamicMap::unsigned()];
    for (map, codes, scales, right, right_scales) in [
        (
            &maps[0],
            "first_codes",
            "first_scales",
            "kept.state1",
            "kept.absmax1",
        ),
        (
            &maps[1],
            "second_codes",
            "second_scales",
            "kept.state2",
            "kept.absmax2",
        ),
    ] {
        let right = Vec::<u8>::try_from(&expected[right]).unwrap();
        let ours = &state[codes].bytes()[start..start + right.len()];
        let differing = ours.iter().zip(&right).filter(|(a, b)| a != b).count();
        // By value: near 0 a hundred codes lie within a thousandth of the scale. Near 1 neighbours differ by 0.014.
        let value = |code: &u8| map.values()[usize::from(*code)];
        let apart = ours
            .iter()
            .zip(&right)
            .map(|(a, b)| (value(a) - value(b)).abs());
        let furthest = apart.fold(0.0, f32::max);
        assert!(
            differing < right.len() / 50 && furthest < 0.03,
            "{codes}: {differing} of {} differ, by {furthest} at most",
            right.len()
        );
        let bytes = &state[scales].bytes()[start / 64..start / 64 + right.len() / 64];
        let ours: Vec<f32> = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|each| f32::from_le_bytes(*each))
            .collect();
        let ours = tch::Tensor::from_slice(&ours);
        let far = distance(&ours, &expected[right_scales]);
        assert!(far < 1e-2, "{scales}: {far}");
    }
}

#[test]
fn fp32_state_would_be_told_apart() {
    let expected = expected();
    let (base, _, _) = train(&expected, fine_tune_job::Optimizer::AdamW, 0.0);
    let parameters = base.parameters().unwrap();
    let before = crate::fixture::weights("tiny-llama-64");
    let after = parameters.value(parameters.find(KEPT).unwrap()).unwrap();
    let far = distance(
        &(after - &before[KEPT]),
        &expected[&format!("moved.{KEPT}")],
    );
    assert!(far > 4e-2, "{far}");
}
