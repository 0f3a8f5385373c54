//! The proof that the parity tests can fail: models that are wrong in one way, made by changing what goes in, must leave the tolerance,
//! and by as much as the reference does when it is wrong in that way.

use finetune_numerics::adapter::Lora;
use finetune_numerics::architecture::{ModelConfig, Windows};
use finetune_numerics::model::{Base, Batch, LoadOptions, Storage};
use finetune_numerics::ops::rope::Scaling;
use tch::Kind;

use crate::expected::{MISTAKE, wrong_losses};
use crate::fixture::{
    Tensors, adapter_tensors, batch, config, distance, of_targets, scaling, tensors, trained,
    weights,
};

/// Compares with the reference's loss when it is wrong in the way of this name.
#[track_caller]
fn assert_wrong(way: &str, ours: f64) {
    let wrong = wrong_losses("expected/mutations.json");
    wrong.assert_near(way, ours, &wrong.report["mutations"][way]["loss"]);
}

struct Setting {
    config: ModelConfig,
    weights: Tensors,
    scaling: f64,
    expected: Tensors,
    batch: Batch,
}

impl Setting {
    fn right() -> Self {
        let expected = tensors("expected/lora-tiny-llama.safetensors");
        Self {
            config: config("tiny-llama"),
            weights: weights("tiny-llama"),
            scaling: scaling("tiny-llama"),
            batch: batch(&expected["tokens"], &expected["labels"]),
            expected,
        }
    }

    fn base(&self) -> Base {
        let options = LoadOptions {
            compute: Kind::Float,
            storage: Storage::Frozen,
        };
        Base::load(&self.config, &self.weights, &options).unwrap()
    }

    /// The mean loss; the logits must have left the tolerance a thousand times over.
    #[track_caller]
    fn wrong_loss(&self) -> f64 {
        let base = self.base();
        let lora = Lora::from_tensors(
            &self.config,
            &|_| self.scaling,
            &adapter_tensors("tiny-llama"),
        )
        .unwrap();
        let logits = base.logits(Some(&lora), &self.batch.tokens).unwrap();
        let distance = distance(&logits, &self.expected["logits"]);
        assert!(
            distance > MISTAKE,
            "the logits moved by {distance:.1e} only"
        );
        base.loss(Some(&lora), &self.batch, None)
            .unwrap()
            .read()
            .unwrap()
            .loss
            / trained(&self.batch)
    }
}

/// Every frequency becomes 0.
#[test]
fn without_rotation_the_loss_is_the_wrong_one_of_the_reference() {
    let mut setting = Setting::right();
    setting.config.rope.scaling = Scaling::Linear { factor: 1e30 };
    assert_wrong("no_rope", setting.wrong_loss());
}

#[test]
fn another_rotation_base_leaves_the_tolerance() {
    let mut setting = Setting::right();
    setting.config.rope.theta = 500.0;
    let _ = setting.wrong_loss();
}

#[test]
fn a_window_where_there_is_none_gives_the_wrong_loss_of_the_reference() {
    let mut setting = Setting::right();
    setting.config.windows = Some(Windows {
        size: 4,
        layers: vec![true; 3],
        rope: None,
    });
    let loss = setting.wrong_loss();
    assert_wrong("window_of_four", loss);
}

#[test]
fn a_wrong_scale_gives_the_wrong_loss_of_the_reference() {
    let mut setting = Setting::right();
    setting.scaling = scaling("tiny-llama-rslora");
    assert_wrong("lora_scale_of_rslora", setting.wrong_loss());
    setting.scaling = 1.0 / 4.0;
    assert_wrong("lora_scale_without_alpha", setting.wrong_loss());
}

#[test]
fn without_the_adapter_the_loss_is_the_wrong_one_of_the_reference() {
    let setting = Setting::right();
    let loss = setting
        .base()
        .loss(None, &setting.batch, None)
        .unwrap()
        .read()
        .unwrap()
        .loss
        / trained(&setting.batch);
    assert_wrong("no_lora", loss);
}

#[test]
fn norm_weights_of_one_give_the_wrong_loss_of_the_reference() {
    let mut setting = Setting::right();
    for (name, weight) in &mut setting.weights {
        if name.contains("norm") {
            *weight = weight.ones_like();
        }
    }
    assert_wrong("no_norm_weight", setting.wrong_loss());
}

#[test]
fn scores_without_their_scale_give_the_wrong_loss_of_the_reference() {
    let mut setting = Setting::right();
    setting.config.wiring.attention_scale = Some(1.0);
    let loss = setting.wrong_loss();
    assert_wrong("unscaled_attention", loss);
}

#[test]
fn wrong_loss_masks_give_the_wrong_losses_of_the_reference() {
    let setting = Setting::right();
    let base = setting.base();
    let lora = Lora::from_tensors(
        &setting.config,
        &|_| setting.scaling,
        &adapter_tensors("tiny-llama"),
    )
    .unwrap();
    let loss = |batch: &Batch| base.loss(Some(&lora), batch, None).unwrap().read().unwrap();
    let (tokens, labels) = (&setting.expected["tokens"], &setting.expected["labels"]);

    let unmasked = loss(&batch(tokens, tokens));
    assert_wrong("prompt_not_masked", unmasked.loss / unmasked.tokens as f64);
    let unshifted = loss(&of_targets(tokens, labels));
    assert_wrong(
        "labels_not_shifted",
        unshifted.loss / unshifted.tokens as f64,
    );
    let all = labels.narrow(1, 1, labels.size()[1] - 1).numel() as f64;
    assert_wrong("divided_by_all_tokens", loss(&setting.batch).loss / all);
}

/// The mask: with later tokens changed, earlier logits must stay. A model without it gives `non_causal_mask`.
#[test]
fn no_token_sees_what_comes_after_it() {
    let setting = Setting::right();
    let base = setting.base();
    let tokens = &setting.expected["tokens"];
    let logits = base.logits(None, tokens).unwrap();
    let changed = tokens.copy();
    let _ = changed.narrow(1, 6, 6).fill_(3);
    let after = base.logits(None, &changed).unwrap();
    assert!(distance(&after.narrow(1, 0, 6), &logits.narrow(1, 0, 6)) < 1e-6);
    assert!(distance(&after.narrow(1, 6, 6), &logits.narrow(1, 6, 6)) > 0.1);
    let report = wrong_losses("expected/mutations.json").report;
    let moved = &report["mutations"]["non_causal_mask"]["relative"];
    assert!(moved.as_f64().unwrap() > MISTAKE);
}
