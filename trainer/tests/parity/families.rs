//! Every family of models against transformers and peft, from its configuration file alone; and the proof by wrong
//! configurations that each key matters.

use std::path::Path;

use finetune_numerics::adapter::Lora;
use finetune_numerics::adapter::LoraSettings as Settings;
use finetune_numerics::model::{Base, Batch, LoadOptions, LogitRows, Storage};
use finetune_numerics::ops::four_bit::Code;
use finetune_numerics::ops::rope::{Rope, Scaling};
use finetune_numerics::optimizer::AdamW;
use rstest::rstest;
use serde_json::Value;
use tch::{IndexOp, Kind, Tensor};
use tempfile::TempDir;
use trainer::base::BaseModelFiles;

use crate::expected::{self, Expected, MISTAKE, wrong_losses};
use crate::fixture::{assert_close, assert_near, batch, distance, json, path, scalar, trained};
use crate::tolerance::SINGLE;

/// A test of each row of the table of families.
macro_rules! for_every_family {
    ($(#[$attribute:meta])* fn $name:ident($family:ident) $body:block) => {
        $(#[$attribute])*
        #[test]
        fn $name() {
            for family in &trainer::base::FAMILIES {
                // What fails says of which.
                eprintln!("family {}", family.name);
                (|$family: &str| $body)(family.name);
            }
        }
    };
}

pub(crate) use for_every_family;

const NF4: Storage = Storage::FourBit {
    code: Code::Nf4,
    double_quantization: false,
};

/// A family's files, with its configuration as it is or with some keys changed.
pub(crate) struct Family {
    pub(crate) files: BaseModelFiles,
    pub(crate) lora: Lora,
    _folder: TempDir,
}

impl Family {
    pub(crate) fn open(name: &str) -> Self {
        Self::changed(name, &Value::Null)
    }

    fn changed(name: &str, changes: &Value) -> Self {
        let original = path(&format!("families/{name}"));
        let folder = tempfile::tempdir().unwrap();
        for file in [
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            std::fs::copy(original.join(file), folder.path().join(file)).unwrap();
        }
        let mut keys = json(&format!("families/{name}/config.json"));
        for (key, value) in changes.as_object().into_iter().flatten() {
            keys[key] = value.clone();
        }
        std::fs::write(folder.path().join("config.json"), keys.to_string()).unwrap();
        let files = BaseModelFiles::open(folder.path()).unwrap();
        let lora = adapter(&original.join("adapter"), &files);
        Self {
            files,
            lora,
            _folder: folder,
        }
    }

    pub(crate) fn base(&self, compute: Kind, storage: Storage) -> Base {
        let options = LoadOptions { compute, storage };
        let weights = self.files.weights().unwrap();
        Base::load(self.files.config(), weights.as_ref(), &options).unwrap()
    }

    fn frozen(&self) -> Base {
        self.base(Kind::Float, Storage::Frozen)
    }
}

fn adapter(folder: &Path, files: &BaseModelFiles) -> Lora {
    trainer::peft::read(folder, files.config()).unwrap().lora
}

pub(crate) fn expected(name: &str) -> (Expected, Batch) {
    let expected = expected::expected(&format!("families/{name}/expected.safetensors"));
    let batch = batch(&expected["tokens"], &expected["labels"]);
    (expected, batch)
}

fn short(expected: &Expected) -> Batch {
    batch(&expected["short.tokens"], &expected["short.labels"])
}

fn mean_loss(base: &Base, lora: &Lora, batch: &Batch) -> f64 {
    base.loss(Some(lora), batch, None)
        .unwrap()
        .read()
        .unwrap()
        .loss
        / trained(batch)
}

/// Loss, logits and gradients under a prefix, and the loss of rows no longer than any window or original length.
#[track_caller]
fn assert_equals_reference(family: &mut Family, name: &str, numbers: &Expected, prefix: &str) {
    let (expected, batch) = expected(name);
    let base = family.frozen();
    let of = |key: &str| format!("{prefix}{key}");
    let logits = base.logits(Some(&family.lora), &batch.tokens).unwrap();
    numbers.assert_close(&of("logits"), &logits);
    let tokens = trained(&batch);
    let sum = base
        .loss_and_gradient(Some(&family.lora), &batch, 1.0 / tokens, None)
        .unwrap()
        .read()
        .unwrap();
    let loss = sum.loss / tokens;
    numbers.assert_near(&of("loss"), loss);
    assert_near(
        "without gradient",
        mean_loss(&base, &family.lora, &batch),
        loss,
        1e-12,
    );
    numbers.assert_gradients(family.lora.parameters(), &of("grad."));
    let short = mean_loss(&base, &family.lora, &short(&expected));
    numbers.assert_near(&of("short.loss"), short);
}

for_every_family! {
    fn adapter_on_a_frozen_base_equals_peft(name) {
        let mut family = Family::open(name);
        let (expected, batch) = expected(name);
        assert_equals_reference(&mut family, name, &expected, "");
        let base = family.frozen();
        let states = base.hidden_states(Some(&family.lora), &batch.tokens).unwrap();
        assert_eq!(states.len() as i64, base.config().layers + 2);
        for (index, state) in states.iter().enumerate() {
            let name = match index == states.len() - 1 {
                true => "hidden.norm".to_owned(),
                false => format!("hidden.{index}"),
            };
            expected.assert_close(&name, state);
        }
    }
}

for_every_family! {
    fn four_optimiser_steps_of_lora_and_qlora_equal_the_reference(name) {
        let (expected, _) = expected(name);
        for (prefix, storage) in [("steps", Storage::Frozen), ("nf4.steps", NF4)] {
            let mut family = Family::open(name);
            let base = family.base(Kind::Float, storage);
            let lora = &mut family.lora;
            let mut optimizer = AdamW::new(lora.parameters().count(), 0.0);
            for step in 0..4_i64 {
                let of = |key: &str| expected[&format!("steps.{key}")].i(step);
                let batch = batch(&of("tokens"), &of("labels"));
                let tokens = trained(&batch);
                lora.parameters_mut().zero_gradients().unwrap();
                let sum = base.loss_and_gradient(Some(lora), &batch, 1.0 / tokens, None).unwrap().read().unwrap();
                expected.assert_number(&format!("{prefix}.losses"), step, sum.loss / tokens);
                optimizer.step(lora.parameters_mut(), 1e-2, 1.0).unwrap();
            }
        }
    }
}

for_every_family! {
    fn a_base_with_double_quantisation_has_the_loss_of_bitsandbytes(name) {
        let family = Family::open(name);
        let (expected, batch) = expected(name);
        let storage = Storage::FourBit { code: Code::Nf4, double_quantization: true };
        let loss = mean_loss(&family.base(Kind::Float, storage), &family.lora, &batch);
        expected.assert_near("nf4.double.loss", loss);
        let moved = (loss / scalar(&expected, "nf4.loss") - 1.0).abs();
        assert!(moved > 2.0 * expected.tolerance("nf4.double.loss"), "the codes of scales show by {moved:.1e} only");
    }
}

for_every_family! {
    /// With the weights of a file in bitsandbytes' format, and quantised here: the same base.
    fn a_base_of_4_bits_equals_the_reference(name) {
        let family = Family::open(name);
        let (expected, batch) = expected(name);
        let quantised = family.base(Kind::Float, NF4);
        let saved = BaseModelFiles::open(&path(&format!("families/{name}/nf4"))).unwrap();
        assert!(saved.quantization().is_some());
        let options = LoadOptions { compute: Kind::Float, storage: NF4 };
        let saved = Base::load(saved.config(), saved.weights().unwrap().as_ref(), &options).unwrap();
        for base in [quantised, saved] {
            let loss = mean_loss(&base, &family.lora, &batch);
            expected.assert_near("nf4.loss", loss);
            let moved = (loss / scalar(&expected, "loss") - 1.0).abs();
            assert!(moved > MISTAKE / 10.0, "4 bits move the loss by {moved:.1e} only");
        }
    }
}

#[track_caller]
fn assert_a_cache_changes_no_logit(family: &Family, row: &Tensor, numbers: &Expected, key: &str) {
    let base = family.frozen();
    let tokens = Vec::<i64>::try_from(row).unwrap();
    for at_once in [1, 5, tokens.len()] {
        let mut cache = base.new_cache(tokens.len() as i64);
        let rows: Vec<Tensor> = tokens
            .chunks(at_once)
            .map(|chunk| {
                base.forward_cached(Some(&family.lora), chunk, &mut cache, LogitRows::All)
                    .unwrap()
            })
            .collect();
        let expected = numbers[key].get(0);
        assert_close(
            key,
            &Tensor::cat(&rows, 0),
            &expected,
            numbers.tolerance(key),
        );
    }
}

for_every_family! {
    fn a_cache_changes_no_logit(name) {
        let family = Family::open(name);
        let (expected, batch) = expected(name);
        assert_a_cache_changes_no_logit(&family, &batch.tokens.get(0), &expected, "logits");
    }
}

for_every_family! {
    fn a_fresh_adapter_on_all_linear_layers_has_the_names_and_shapes_of_pefts(name) {
        let family = Family::open(name);
        let settings = Settings {
            rank: family.lora.rank(),
            target_modules: vec!["all-linear".to_owned()],
            ..Settings::default()
        };
        let fresh = Lora::new(family.files.config(), &settings, 0).unwrap();
        let shapes = |lora: &Lora| {
            let list = lora.parameters().list().iter();
            list.map(|parameter| (parameter.name.clone(), parameter.shape.clone()))
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(shapes(&fresh), shapes(&family.lora));
        assert_eq!(
            Lora::count(family.files.config(), &settings).unwrap(),
            fresh.parameters().count() as i64
        );
    }
}

for_every_family! {
    /// By differences: a step along the gradient of a tensor changes the loss by the gradient's square.
    fn gradients_of_all_weights_say_how_the_loss_changes(name) {
        let family = Family::open(name);
        let (_, batch) = expected(name);
        let base = family.base(Kind::Float, Storage::Trained);
        let tokens = trained(&batch);
        base.loss_and_gradient(None, &batch, 1.0 / tokens, None).unwrap();
        let parameters = base.parameters().unwrap();
        for parameter in parameters.list().to_vec() {
            let parameters = base.parameters().unwrap();
            let gradient = parameters.gradient(&parameter).unwrap();
            let norm = gradient.norm().double_value(&[]);
            assert!(norm > 1e-4, "{}: no gradient", parameter.name);
            let mut value = parameters.value(&parameter).unwrap();
            let right = value.copy();
            let step = 0.01;
            let mut loss = |length: f64| {
                value.copy_(&(&right + &gradient * (length / norm)));
                base.loss(None, &batch, None).unwrap().read().unwrap().loss / tokens
            };
            let slope = (loss(step) - loss(-step)) / (2.0 * step);
            loss(0.0);
            let off = (slope - norm).abs();
            assert!(off < 0.01 * norm + 2e-4, "{}: {norm}, by differences {slope}", parameter.name);
        }
    }
}

#[rstest]
fn every_kind_of_rotation_equals_the_reference(
    #[values("linear", "dynamic", "llama3", "yarn", "yarn-plain", "longrope")] kind: &str,
) {
    let changes = json("families/llama/ropes.json")[kind].clone();
    let numbers = expected::expected("families/llama/ropes.safetensors");
    let mut family = Family::changed("llama", &changes);
    assert_equals_reference(&mut family, "llama", &numbers, &format!("{kind}."));
    let (_, batch) = expected("llama");
    let logits = format!("{kind}.logits");
    assert_a_cache_changes_no_logit(&family, &batch.tokens.get(0), &numbers, &logits);
}

#[test]
fn a_cache_turns_all_tokens_as_a_sequence_of_the_tokens_so_far_does() {
    let family = Family::open("phi3");
    let base = family.frozen();
    let lora = Some(&family.lora);
    let tokens: Vec<i64> = (7..17).collect();
    let alone = |length: usize| {
        let tokens = Tensor::from_slice(&tokens[..length]).unsqueeze(0);
        base.logits(lora, &tokens).unwrap().get(0).get(-1)
    };
    let tolerance = expected("phi3").0.between("logits");
    let mut cache = base.new_cache(3);
    for length in 3..=10 {
        let computed = cache.prepare(length as i64) as usize;
        // Past the original length of 8, all are computed once more.
        assert_eq!(
            computed,
            if length == 3 || length == 9 {
                0
            } else {
                length - 1
            }
        );
        let logits = base
            .forward_cached(lora, &tokens[computed..length], &mut cache, LogitRows::Last)
            .unwrap();
        assert_close("logits", &logits.get(0), &alone(length), tolerance);
    }
    let mut known = base.new_cache(10);
    let early = base.forward_cached(lora, &tokens[..3], &mut known, LogitRows::Last);
    assert!(distance(&early.unwrap().get(0), &alone(3)) > MISTAKE);
}

for_every_family! {
    /// A wrong key must give what the reference gives with that key, and that must be far away.
    fn wrong_keys_give_the_wrong_losses_of_the_reference(name) {
        // It has the keys of `gemma3`, within another checkpoint.
        if name == "gemma3-multimodal" {
            return;
        }
        let wrong_losses = wrong_losses("families/mutations.json");
        let (expected, batch) = expected(name);
        let mut seen = 0;
        for (way, wrong) in wrong_losses.report[name].as_object().unwrap() {
            if wrong["keys"].is_null() {
                continue;
            }
            let family = Family::changed(name, &wrong["keys"]);
            let base = family.frozen();
            let loss = mean_loss(&base, &family.lora, &batch);
            wrong_losses.assert_near(way, loss, &wrong["loss"]);
            let logits = base.logits(Some(&family.lora), &batch.tokens).unwrap();
            let moved = distance(&logits, &expected["logits"]);
            assert!(
                moved > MISTAKE,
                "{way} moves the logits by {moved:.1e} only"
            );
            seen += 1;
        }
        assert!(seen > 0);
    }
}

#[test]
fn frequencies_are_those_of_the_reference() {
    let list = json("expected/rope.json");
    for case in list.as_array().unwrap() {
        let number = |key: &str| case["parameters"][key].as_f64();
        let original_length = number("original_max_position_embeddings").unwrap_or(0.0) as i64;
        let factor = number("factor").unwrap_or(1.0);
        let scaling = match case["parameters"]["rope_type"].as_str().unwrap() {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor },
            "llama3" => Scaling::Llama3 {
                factor,
                low_frequency_factor: number("low_freq_factor").unwrap(),
                high_frequency_factor: number("high_freq_factor").unwrap(),
                original_length,
            },
            "yarn" => Scaling::Yarn {
                factor,
                beta_fast: 32.0,
                beta_slow: 1.0,
                original_length,
                truncate: true,
                attention_factor: case["factor"].as_f64().unwrap(),
            },
            other => panic!("{other}"),
        };
        let rope = Rope {
            theta: number("rope_theta").unwrap(),
            dimensions: case["head_dim"].as_i64().unwrap(),
            scaling,
        };
        let ours = rope.frequencies(1).unwrap();
        let theirs = case["inverse_frequencies"].as_array().unwrap();
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            let name = &case["parameters"]["rope_type"].to_string();
            assert_near(name, f64::from(*ours), theirs.as_f64().unwrap(), SINGLE);
        }
    }
}
