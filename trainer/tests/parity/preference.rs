//! Direct preference optimisation: loss, gradients and steps against TRL's trainer with peft.

use finetune_dataset::{MicroBatchSize, TokenizedRow};
use finetune_numerics::adapter::{Lora, LoraSettings};
use finetune_numerics::model::{Base, Storage};
use finetune_numerics::optimizer::AdamW;
use rstest::rstest;
use tch::{IndexOp, Kind, Tensor};
use trainer::job::AdapterSettings;
use trainer::objective::{Chance, Dpo, Loss, Objective, StepRows};
use trainer::run::trainee::{Trained, Trainee};

use crate::expected::{Expected, wrong_losses};
use crate::fixture::{adapter, assert_near, base};
use crate::tolerance::SINGLE;

const BETA: f64 = 0.3;
const PAIRS: [usize; 3] = [0, 1, 2];

fn expected() -> Expected {
    crate::expected::expected("expected/preference-tiny-llama.safetensors")
}

/// Rows with their padding, which carries no loss and is seen by no token that does.
fn rows(tokens: &Tensor, labels: &Tensor) -> Vec<TokenizedRow> {
    let tokens = Vec::<Vec<i64>>::try_from(tokens).unwrap();
    let labels = Vec::<Vec<i64>>::try_from(labels).unwrap();
    let row = |(tokens, labels): (Vec<i64>, Vec<i64>)| TokenizedRow {
        tokens: tokens.into_iter().map(|token| token as u32).collect(),
        loss: labels.into_iter().map(|label| label != -100).collect(),
    };
    tokens.into_iter().zip(labels).map(row).collect()
}

/// One answer a pass.
const ONE: MicroBatchSize = MicroBatchSize::Rows(1);

/// Adds the gradient of all pairs as those of the first step.
fn accumulate_gradient(trainee: &mut Trainee, data: &[TokenizedRow]) -> Loss {
    let rows = StepRows {
        data,
        rows: &PAIRS.map(|pair| vec![pair]),
        micro_batch_size: ONE,
        step: 0,
    };
    trainee
        .accumulate_gradient(rows, &|| true)
        .unwrap()
        .unwrap()
}

fn loss(trainee: &mut Trainee, data: &[TokenizedRow]) -> Loss {
    trainee.loss(data, ONE, &|| true).unwrap().unwrap()
}

fn trainee(preference: Dpo, chance: Chance) -> Trainee {
    Trainee {
        trained: Trained::Adapter {
            base: base("tiny-llama", Kind::Float, Storage::Frozen),
            lora: adapter("tiny-llama", "tiny-llama"),
            settings: AdapterSettings {
                lora: LoraSettings::default(),
                dropout: chance.dropout,
            },
        },
        chance,
        objective: Objective::Dpo(preference),
    }
}

#[test]
fn loss_gradients_and_log_probabilities_equal_trls() {
    let expected = expected();
    let data = rows(&expected["tokens"], &expected["labels"]);
    let base = base("tiny-llama", Kind::Float, Storage::Frozen);
    let adapter = adapter("tiny-llama", "tiny-llama");
    for (index, row) in data.iter().enumerate() {
        for (lora, name) in [(None, "reference"), (Some(&adapter), "policy")] {
            expected.assert_number(name, index as i64, answer(&base, lora, row));
        }
    }
    let mut trainee = trainee(Dpo::new(BETA, None), Chance::default());
    for _ in 0..2 {
        // The second time the reference is known already.
        trainee.parameters_mut().zero_gradients().unwrap();
        let loss = accumulate_gradient(&mut trainee, &data);
        expected.assert_near("loss", loss.mean());
        expected.assert_gradients(trainee.parameters(), "grad.");
    }
    let without_gradient = loss(&mut trainee, &data);
    expected.assert_near("loss", without_gradient.mean());
}

/// The log-probability of a row's answer, the sum over its tokens.
fn answer(base: &Base, lora: Option<&Lora>, row: &TokenizedRow) -> f64 {
    let tokens: Vec<i64> = row.tokens.iter().map(|token| i64::from(*token)).collect();
    let each = base.log_probabilities(lora, &tokens).unwrap();
    let each = each.iter().zip(&row.loss[1..]);
    each.filter_map(|(log_probability, loss)| loss.then_some(log_probability))
        .sum()
}

/// Against the base without an adapter, and against the adapter as training found it.
#[rstest]
#[case("losses", None)]
#[case("start.losses", Some(adapter("tiny-llama", "tiny-llama")))]
fn four_steps_equal_trls(#[case] losses: &str, #[case] reference: Option<Lora>) {
    let expected = expected();
    let mut trainee = trainee(Dpo::new(BETA, reference), Chance::default());
    let mut optimizer = AdamW::new(trainee.parameters().count(), 0.0);
    for step in 0..4 {
        let at = |name: &str| expected[&format!("trajectory.{name}")].i(step);
        let data = rows(&at("tokens"), &at("labels"));
        let parameters = trainee.parameters_mut();
        parameters.zero_gradients().unwrap();
        let loss = accumulate_gradient(&mut trainee, &data);
        let parameters = trainee.parameters_mut();
        optimizer.step(parameters, 1e-2, 1.0).unwrap();
        expected.assert_number(&format!("trajectory.{losses}"), step, loss.mean());
    }
}

#[rstest]
#[case("other_beta", 1.0, false)]
#[case("rejected_for_chosen", BETA, true)]
fn a_wrong_loss_is_the_wrong_one_of_the_reference(
    #[case] name: &str,
    #[case] beta: f64,
    #[case] swapped: bool,
) {
    let expected = expected();
    let mut data = rows(&expected["tokens"], &expected["labels"]);
    if swapped {
        data.chunks_exact_mut(2).for_each(<[_]>::reverse);
    }
    let mut trainee = trainee(Dpo::new(beta, None), Chance::default());
    let wrong = wrong_losses("expected/preference-mutations.json");
    let loss = loss(&mut trainee, &data).mean();
    wrong.assert_near(name, loss, &wrong.report["mutations"][name]["loss"]);
}

#[test]
fn against_its_own_start_every_pair_costs_ln_2_also_where_inputs_are_dropped_later() {
    let expected = expected();
    let data = rows(&expected["tokens"], &expected["labels"]);
    let itself = || Dpo::new(BETA, Some(adapter("tiny-llama", "tiny-llama")));
    let chance = Chance {
        seed: 1,
        dropout: 0.3,
        noise_alpha: Some(5.0),
    };
    let ln_2 = std::f64::consts::LN_2;
    let mut random = trainee(itself(), chance);
    let dropped = accumulate_gradient(&mut random, &data);
    assert!((dropped.mean() - ln_2).abs() > 1e-3, "{dropped:?}");
    // Neither the reference nor the loss without gradient is random.
    let still = loss(&mut random, &data).mean();
    assert_near("loss", still, ln_2, SINGLE);
}
