//! The further settings of LoRA, NEFTune, and the dropout of the attention: loss, gradients and steps as transformers + peft compute them.
//!
//! Masks and noise are functions of a key on both sides, so that what is random is compared too.

use finetune_numerics::adapter::Lora;
use finetune_numerics::adapter::LoraSettings as Settings;
use finetune_numerics::model::{Base, Batch, LoadOptions, Randomness, Storage};
use finetune_numerics::ops::four_bit::Code;
use finetune_numerics::ops::random::Draw;
use finetune_numerics::optimizer::AdamW;
use rstest::rstest;
use tch::{IndexOp, Kind};

use crate::expected::{Expected, wrong_losses};
use crate::fixture::{
    assert_close, assert_near, base, batch, config, path, tensors, trained, weights,
};
use crate::tolerance::SINGLE;

/// The scale of the module with this name.
type Scaling<'a> = &'a dyn Fn(&str) -> f64;

const NF4: Storage = Storage::FourBit {
    code: Code::Nf4,
    double_quantization: false,
};
/// As in `methods.py`.
const DRAW: Draw = Draw {
    seed: 11,
    step: 3,
    micro_batch: 1,
};
const DROPOUT: f64 = 0.25;
const NOISE_ALPHA: f64 = 5.0;

fn read(adapter: &str, model: &str) -> Lora {
    let folder = path(&format!("adapters/{adapter}"));
    trainer::peft::read(&folder, &config(model)).unwrap().lora
}

fn expected(setting: &str) -> Expected {
    crate::expected::expected(&format!("expected/methods-{setting}.safetensors"))
}

/// What is random in a setting.
fn random(setting: &str) -> Option<Randomness> {
    let nothing_else = Randomness::of_base(DRAW);
    match setting {
        "dropout" | "dora-dropout" => Some(Randomness {
            adapter_dropout: DROPOUT,
            ..nothing_else
        }),
        "attention-dropout" => Some(nothing_else),
        "noise" => Some(Randomness {
            neftune_noise_alpha: Some(NOISE_ALPHA),
            ..nothing_else
        }),
        _ => None,
    }
}

/// The mean loss of the fixture's batch; gradients are the adapter's.
fn loss(base: &Base, lora: &mut Lora, random: Option<Randomness>, expected: &Expected) -> f64 {
    let batch = batch(&expected["tokens"], &expected["labels"]);
    let tokens = trained(&batch);
    lora.parameters_mut().zero_gradients().unwrap();
    let sum = base.loss_and_gradient(Some(lora), &batch, 1.0 / tokens, random);
    sum.unwrap().read().unwrap().loss / tokens
}

/// The base of a setting, with what its configuration says.
fn base_of(setting: &str, model: &str, storage: Storage) -> Base {
    let mut config = config(model);
    if setting == "attention-dropout" {
        config.attention_dropout = DROPOUT;
    }
    let options = LoadOptions {
        compute: Kind::Float,
        storage,
    };
    Base::load(&config, &weights(model), &options).unwrap()
}

#[rstest]
#[case::patterns("patterns", "tiny-llama-patterns", "tiny-llama", Storage::Frozen)]
#[case::dora("dora", "tiny-llama-bias-dora", "tiny-llama-bias", Storage::Frozen)]
#[case::dora_in_4_bits("dora-nf4", "tiny-llama-64-dora", "tiny-llama-64", NF4)]
#[case::dropout("dropout", "tiny-llama", "tiny-llama", Storage::Frozen)]
#[case::dora_and_dropout(
    "dora-dropout",
    "tiny-llama-bias-dora",
    "tiny-llama-bias",
    Storage::Frozen
)]
#[case::noise("noise", "tiny-llama-bias", "tiny-llama-bias", Storage::Frozen)]
#[case::attention_dropout("attention-dropout", "tiny-llama", "tiny-llama", Storage::Frozen)]
fn loss_and_gradients_equal_peft(
    #[case] setting: &str,
    #[case] adapter: &str,
    #[case] model: &str,
    #[case] storage: Storage,
) {
    let expected = expected(setting);
    let base = base_of(setting, model, storage);
    let mut lora = read(adapter, model);
    let loss = loss(&base, &mut lora, random(setting), &expected);
    expected.assert_near("loss", loss);
    expected.assert_gradients(lora.parameters(), "grad.");
}

#[rstest]
#[case::patterns("patterns", "tiny-llama-patterns", "tiny-llama", Storage::Frozen)]
#[case::dora("dora", "tiny-llama-bias-dora", "tiny-llama-bias", Storage::Frozen)]
#[case::dora_in_4_bits("dora-nf4", "tiny-llama-64-dora", "tiny-llama-64", NF4)]
fn four_steps_equal_peft(
    #[case] setting: &str,
    #[case] adapter: &str,
    #[case] model: &str,
    #[case] storage: Storage,
) {
    let expected = expected(setting);
    let base = base(model, Kind::Float, storage);
    for (step, (loss, norm)) in (0..).zip(steps(base, read(adapter, model), &expected)) {
        expected.assert_number("trajectory.losses", step, loss);
        expected.assert_number("trajectory.grad_norms", step, norm);
    }
}

#[rstest]
#[case::patterns("patterns", "tiny-llama-patterns", "tiny-llama", Storage::Frozen)]
#[case::dora("dora", "tiny-llama-bias-dora", "tiny-llama-bias", Storage::Frozen)]
#[case::dora_in_4_bits("dora-nf4", "tiny-llama-64-dora", "tiny-llama-64", NF4)]
fn four_steps_in_bf16_stay_near_those_of_the_reference(
    #[case] setting: &str,
    #[case] adapter: &str,
    #[case] model: &str,
    #[case] storage: Storage,
) {
    let expected = expected(setting);
    let base = base(model, Kind::BFloat16, storage);
    // A norm is off by no more than its gradient is, and from the second step on that of other weights.
    let tolerance = expected.tolerance_in_bf16("grad.");
    for (step, (loss, norm)) in (0..).zip(steps(base, read(adapter, model), &expected)) {
        expected.assert_number_in_bf16("trajectory.losses", step, loss);
        let right = expected["trajectory.grad_norms"].double_value(&[step]);
        assert_near(&format!("norm of step {step}"), norm, right, tolerance);
    }
}

/// The loss and the norm of the gradient of each of four steps.
fn steps(base: Base, mut lora: Lora, expected: &Expected) -> Vec<(f64, f64)> {
    let mut optimizer = AdamW::new(lora.parameters().count(), 0.0);
    let step = |step| {
        let at = |name: &str| expected[&format!("trajectory.{name}")].i(step);
        let batch: Batch = batch(&at("tokens"), &at("labels"));
        let tokens = trained(&batch);
        lora.parameters_mut().zero_gradients().unwrap();
        let sum = base.loss_and_gradient(Some(&lora), &batch, 1.0 / tokens, None);
        let norm = optimizer.step(lora.parameters_mut(), 1e-2, 1.0).unwrap();
        (sum.unwrap().read().unwrap().loss / tokens, norm)
    };
    (0..4).map(step).collect()
}

#[test]
fn bf16_dora_follows_the_reference() {
    let expected = expected("dora");
    let base = base("tiny-llama-bias", Kind::BFloat16, Storage::Frozen);
    let mut lora = read("tiny-llama-bias-dora", "tiny-llama-bias");
    let loss = loss(&base, &mut lora, None, &expected);
    expected.assert_number_in_bf16("loss", 0, loss);
    expected.assert_gradients_in_bf16(lora.parameters(), "grad.");
}

/// Compares with the reference's loss when it is wrong in the way of this name.
#[track_caller]
fn assert_wrong(setting: &str, way: &str, ours: f64) {
    let wrong = wrong_losses("expected/methods-mutations.json");
    wrong.assert_near(way, ours, &wrong.report[setting][way]["loss"]);
}

#[test]
fn wrong_scales_give_the_wrong_losses_of_the_reference() {
    let expected = expected("patterns");
    let right = read("tiny-llama-patterns", "tiny-llama");
    let tensors = tensors("adapters/tiny-llama-patterns/adapter_model.safetensors");
    let alpha = |module: &str| {
        if module.ends_with("q_proj") {
            5.0
        } else if module.ends_with("up_proj") {
            3.0
        } else {
            8.0
        }
    };
    let rank = |module: &str| {
        let found = right.modules().iter().find(|found| found.name == module);
        found.unwrap().rank as f64
    };
    let wrong: [(&str, Scaling<'_>); 3] = [
        ("no_alpha_pattern", &|module| 8.0 / rank(module).sqrt()),
        ("scale_of_plain_lora", &|module| {
            alpha(module) / rank(module)
        }),
        ("scale_of_the_common_rank", &|module| alpha(module) / 2.0),
    ];
    for (name, scaling) in wrong {
        let base = base("tiny-llama", Kind::Float, Storage::Frozen);
        let mut lora = Lora::from_tensors(&config("tiny-llama"), scaling, &tensors).unwrap();
        let loss = loss(&base, &mut lora, None, &expected);
        assert_wrong("patterns", name, loss);
    }
}

#[rstest]
#[case("dropout", "tiny-llama", "tiny-llama")]
#[case("dora-dropout", "tiny-llama-bias-dora", "tiny-llama-bias")]
#[case("noise", "tiny-llama-bias", "tiny-llama-bias")]
#[case("attention-dropout", "tiny-llama", "tiny-llama")]
fn what_is_random_is_an_argument_of_a_pass_alone(
    #[case] setting: &str,
    #[case] adapter: &str,
    #[case] model: &str,
) {
    let expected = expected(setting);
    let base = base_of(setting, model, Storage::Frozen);
    let mut lora = read(adapter, model);
    let loss = loss(&base, &mut lora, None, &expected);
    assert_wrong(setting, "none", loss);
}

#[rstest]
#[case(Kind::Float, Storage::Frozen)]
#[case(Kind::BFloat16, Storage::Frozen)]
#[case(Kind::Float, NF4)]
#[case(Kind::BFloat16, Storage::FourBit { code: Code::Nf4, double_quantization: true })]
fn a_fresh_dora_adapter_changes_nothing_and_its_magnitudes_are_the_norms_of_the_rows(
    #[case] kind: Kind,
    #[case] storage: Storage,
) {
    let model = "tiny-llama-64";
    let settings = Settings {
        use_dora: true,
        ..Settings::default()
    };
    let base = base(model, kind, storage);
    let mut lora = Lora::new(&config(model), &settings, 7).unwrap();
    base.start_magnitudes(&mut lora).unwrap();
    let numbers = crate::expected::expected("expected/lora-tiny-llama-64.safetensors");
    let tokens = &numbers["tokens"];
    let without = base.logits(None, tokens).unwrap();
    let with = base.logits(Some(&lora), tokens).unwrap();
    // B is zero and every factor 1; libtorch sums in another order where there is an adapter.
    match kind {
        Kind::Float => assert_close("logits", &with, &without, numbers.between("logits")),
        _ => {
            let far = (&with - &without).norm() / without.norm();
            let allowed = 2.0 * numbers.tolerance_in_bf16("logits");
            assert!(far.double_value(&[]) <= allowed, "logits: {far:?}");
        }
    }

    let tolerance = match (kind, storage) {
        (_, Storage::FourBit { .. }) => 0.1,
        (Kind::Float, _) => SINGLE,
        _ => 3e-3,
    };
    let weights = tensors(&format!("{model}/model.safetensors"));
    let mut seen = 0;
    for parameter in lora.parameters().list() {
        let module = parameter.name.strip_suffix(".lora_magnitude_vector");
        if let Some(module) = module.and_then(|name| name.strip_prefix("base_model.model.")) {
            let weight = &weights[&format!("{module}.weight")];
            let norms = weight.norm_scalaropt_dim(2.0, [1].as_slice(), false);
            let value = lora.parameters().value(parameter).unwrap();
            assert_close(module, &value, &norms, tolerance);
            seen += 1;
        }
    }
    assert_eq!(seen, 14);
}

#[rstest]
#[case("patterns", "tiny-llama-patterns", "tiny-llama")]
#[case("dora", "tiny-llama-bias-dora", "tiny-llama-bias")]
fn merged_weights_give_the_loss_of_base_and_adapter(
    #[case] setting: &str,
    #[case] adapter: &str,
    #[case] model: &str,
) {
    let expected = expected(setting);
    let lora = read(adapter, model);
    let mut weights = weights(model);
    let mut merged = 0;
    for (name, weight) in &mut weights {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        if let Some(with_adapter) = lora.merged(module, weight).unwrap() {
            *weight = with_adapter;
            merged += 1;
        }
    }
    assert_eq!(merged, lora.modules().len());
    let options = LoadOptions {
        compute: Kind::Float,
        storage: Storage::Frozen,
    };
    let base = Base::load(&config(model), &weights, &options).unwrap();
    let batch = batch(&expected["tokens"], &expected["labels"]);
    let loss = base.loss(None, &batch, None).unwrap().read().unwrap().loss / trained(&batch);
    expected.assert_near("loss", loss);
}

#[test]
fn a_pattern_that_hits_no_module_is_refused() {
    let settings = Settings {
        rank_pattern: [("p_proj".to_owned(), 8)].into(),
        ..Settings::default()
    };
    let error = Lora::new(&config("tiny-llama"), &settings, 0)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`rankPattern` has `p_proj`, which matches no adapted module"),
        "{error}"
    );
}

#[rstest]
#[case("rank", |settings: &mut Settings| settings.rank = 16)]
#[case("rank", |settings: &mut Settings| settings.rank_pattern.extend([("o_proj".to_owned(), 5)]))]
#[case("`alpha`", |settings: &mut Settings| settings.alpha = 16)]
#[case("`alpha`", |settings: &mut Settings| settings.alpha_pattern.clear())]
#[case("`useRslora`", |settings: &mut Settings| settings.use_rslora = false)]
#[case("`useDora`", |settings: &mut Settings| settings.use_dora = true)]
#[case("is adapted, but", |settings: &mut Settings| settings.target_modules = ["q_proj", "v_proj", "down_proj", "up_proj"].map(str::to_owned).into())]
fn an_adapter_to_go_on_from_must_be_what_the_method_says(
    #[case] word: &str,
    #[case] change: fn(&mut Settings),
) {
    let lora = read("tiny-llama-patterns", "tiny-llama");
    let mut settings = Settings {
        rank: 4,
        alpha: 8,
        rank_pattern: [
            ("model.layers.1.mlp.down_proj".to_owned(), 2),
            ("q_proj".to_owned(), 8),
            (r"layers\.[02]\.self_attn\.v_proj".to_owned(), 3),
        ]
        .into(),
        alpha_pattern: [("mlp.up_proj".to_owned(), 3), ("q_proj".to_owned(), 5)].into(),
        use_rslora: true,
        ..Settings::default()
    };
    let config = config("tiny-llama");
    lora.refuse_other(&config, &settings).unwrap();
    change(&mut settings);
    let error = lora
        .refuse_other(&config, &settings)
        .unwrap_err()
        .to_string();
    assert!(error.contains(word), "{error}");
}
