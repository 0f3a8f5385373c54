//! AdamW with 8-bit state against bitsandbytes': the maps of codes, the losses of six steps, and the state after them.

use finetune_numerics::model::{Base, Storage};
use finetune_numerics::optimizer::{DynamicMap, Optimizer, OptimizerKind};
use tch::{IndexOp, Kind};

use crate::expected::Expected;
use crate::fixture::{assert_near, base, batch, trained};

const STEPS: i64 = 6;
const KEPT: &str = "model.layers.0.mlp.down_proj.weight";

fn expected() -> Expected {
    crate::expected::expected("expected/adamw-8bit.safetensors")
}

/// Trains all of tiny-llama-64; returns it, the optimiser and the losses.
fn train(
    expected: &Expected,
    kind: OptimizerKind,
    weight_decay: f64,
) -> (Base, Optimizer, Vec<f64>) {
    let mut base = base("tiny-llama-64", Kind::Float, Storage::Trained);
    let mut optimizer = Optimizer::new(kind, base.parameters().unwrap(), weight_decay);
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let batch = batch(&expected["tokens"].i(step), &expected["labels"].i(step));
        let tokens = trained(&batch);
        base.parameters_mut().unwrap().zero_gradients().unwrap();
        let loss = base
            .loss_and_gradient(None, &batch, 1.0 / tokens, None)
            .unwrap()
            .read()
            .unwrap();
        losses.push(loss.loss / tokens);
        optimizer
            .step(base.parameters_mut().unwrap(), 1e-2, 1.0)
            .unwrap();
    }
    (base, optimizer, losses)
}

fn assert_losses(key: &str, losses: &[f64], expected: &Expected) {
    for (step, loss) in losses.iter().enumerate() {
        expected.assert_number(key, step as i64, *loss);
    }
}

/// How far `ours` has come otherwise than the reference, by the Euclidean norm: single codes flip, on each machine others.
fn moved_apart(base: &Base, expected: &Expected, name: &str) -> f64 {
    let parameters = base.parameters().unwrap();
    let after = parameters.value(parameters.find(name).unwrap()).unwrap();
    let ours = after - &crate::fixture::weights("tiny-llama-64")[name];
    let right = &expected[&format!("moved.{name}")];
    ((ours - right).norm() / right.norm()).double_value(&[])
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
    let kind = OptimizerKind::AdamW8bit;
    let (base, optimizer, losses) = train(&expected, kind, 0.0);
    assert_losses("nearest.losses", &losses, &expected);
    for (step, loss) in losses.iter().enumerate() {
        // Its kernel for CPUs takes a code near the nearest one: that is another rule, and no rounding.
        let right = expected["losses"].double_value(&[step as i64]);
        assert_near("loss on a CPU", *loss, right, 1e-3);
    }

    for name in [KEPT, "model.norm.weight"] {
        let apart = moved_apart(&base, &expected, name);
        let tolerance = expected.tolerance(&format!("moved.{name}"));
        assert!(
            apart <= tolerance,
            "{name}: {apart:.1e} apart, expected at most {tolerance:.1e}"
        );
    }
    assert_state(&base, &optimizer, &expected);

    let (_, _, losses) = train(&expected, kind, 0.1);
    assert_losses("nearest.decay.losses", &losses, &expected);
}

/// The codes and scales of one tensor: nearly all codes equal, none far.
fn assert_state(base: &Base, optimizer: &Optimizer, expected: &Expected) {
    // Coded tensors lie one after the other, in the order of the parameters.
    let coded =
        |name: &str, length: usize| length >= 4096 && !name.ends_with("embed_tokens.weight");
    let list = base.parameters().unwrap().list();
    let before = list.iter().take_while(|parameter| parameter.name != KEPT);
    let start: usize = before
        .filter(|parameter| coded(&parameter.name, parameter.length()))
        .map(finetune_numerics::optimizer::Parameter::length)
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
        let kept = right;
        let right = Vec::<u8>::try_from(&expected[kept]).unwrap();
        let ours = &state[codes].bytes()[start..start + right.len()];
        let differing = ours.iter().zip(&right).filter(|(a, b)| a != b).count();
        // By value: near 0 a hundred codes lie within a thousandth of the scale.
        let value = |code: &u8| map.values()[usize::from(*code)];
        let apart = ours
            .iter()
            .zip(&right)
            .map(|(a, b)| (value(a) - value(b)).abs());
        let furthest = apart.fold(0.0, f32::max);
        let part = differing as f64 / right.len() as f64;
        let most = expected.tolerance(&format!("{kept}.differing"));
        assert!(
            part <= most && f64::from(furthest) <= expected.tolerance(kept),
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
        expected.assert_close(right_scales, &ours);
    }
}

#[test]
fn fp32_state_would_be_told_apart() {
    let expected = expected();
    let (base, _, _) = train(&expected, OptimizerKind::AdamW, 0.0);
    let far = moved_apart(&base, &expected, KEPT);
    assert!(
        far > 2.0 * expected.tolerance(&format!("moved.{KEPT}")),
        "{far}"
    );
}
