//! Direct preference optimisation (Rafailov et al., 2023, equation 7): of two answers to one prompt the preferred one shall
//! become likelier, against a reference that stays as it is.
//!
//! Rows come in pairs: row 2·i is the preferred answer of pair i, row 2·i + 1 the other one. Each answer is a pass of its own,
//! because the strength of its gradient is known only once both have been looked at.

use std::collections::HashMap;

use finetune_dataset::TokenizedRow;
use finetune_numerics::adapter::Lora;
use finetune_numerics::model::{Base, Batch, Randomness};

use super::{Chance, GoesOn, Loss, Model, StepRows, batch_row};
use crate::failure::Failure;

/// Preferences, and what they are measured against.
#[derive(Debug)]
pub struct Dpo {
    /// How strongly the model is held to the reference.
    beta: f64,
    /// The adapter of the reference; `None`: it is the base alone.
    reference: Option<Lora>,
    /// The log-probabilities of answers under the reference, which never change, once they are known.
    known: HashMap<TokenizedRow, f64>,
}

impl Dpo {
    /// Preferences against the base with the adapter `reference`.
    pub fn new(beta: f64, reference: Option<Lora>) -> Self {
        Self {
            beta,
            reference,
            known: HashMap::new(),
        }
    }

    /// The log-probability of an answer under the reference, the sum over its tokens.
    fn of_reference(&mut self, base: &Base, row: &TokenizedRow) -> Result<f64, Failure> {
        if let Some(known) = self.known.get(row) {
            return Ok(*known);
        }
        let model = Model {
            base,
            lora: self.reference.as_ref(),
        };
        let found = log_probability(model, &batch(row)?, None)?;
        self.known.insert(row.clone(), found);
        Ok(found)
    }

    /// Adds the gradient of the mean loss over the step's pairs to the parameters'.
    pub(super) fn accumulate_gradient(
        &mut self,
        model: Model<'_>,
        chance: Chance,
        rows: StepRows<'_>,
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Loss>, Failure> {
        let pairs = rows.rows.concat();
        let mut loss = Loss::default();
        for (index, &pair) in pairs.iter().enumerate() {
            let of = pairs.len();
            tracing::debug!("step {}: pair {} of {of}", rows.step + 1, index + 1);
            let answers = answers(rows.data, pair)?;
            let mut reference = [0.0; 2];
            for (side, row) in answers.into_iter().enumerate() {
                if !goes_on() {
                    return Ok(None);
                }
                reference[side] = self.of_reference(model.base, row)?;
            }
            let batches = [batch(answers[0])?, batch(answers[1])?];
            let random = |side: usize| Some(chance.of_pass(rows.step, (2 * index + side) as u64));
            let mut policy = [0.0; 2];
            for (side, batch) in batches.iter().enumerate() {
                if !goes_on() {
                    return Ok(None);
                }
                policy[side] = log_probability(model, batch, random(side))?;
            }
            let terms = pair_loss(self.beta, policy, reference);
            loss.add_pair(&terms, answers);
            let scale = terms.slope / pairs.len() as f64;
            for (side, batch) in batches.iter().enumerate() {
                if !goes_on() {
                    return Ok(None);
                }
                // The same draw as before: it is the same pass, now with its gradient. A pass's loss is -log p.
                let scale = if side == 0 { scale } else { -scale };
                model
                    .base
                    .loss_and_gradient(model.lora, batch, scale, random(side))?;
            }
        }
        Ok(Some(loss))
    }

    /// The loss of all pairs of `data`, without gradients.
    pub(super) fn loss(
        &mut self,
        model: Model<'_>,
        data: &[TokenizedRow],
        goes_on: GoesOn<'_>,
    ) -> Result<Option<Loss>, Failure> {
        let mut loss = Loss::default();
        for pair in 0..data.len() / 2 {
            let rows = answers(data, pair)?;
            let (mut policy, mut reference) = ([0.0; 2], [0.0; 2]);
            for (side, row) in rows.into_iter().enumerate() {
                if !goes_on() {
                    return Ok(None);
                }
                policy[side] = log_probability(model, &batch(row)?, None)?;
                reference[side] = self.of_reference(model.base, row)?;
            }
            loss.add_pair(&pair_loss(self.beta, policy, reference), rows);
        }
        Ok(Some(loss))
    }
}

impl Loss {
    fn add_pair(&mut self, pair: &PairLoss, rows: [&TokenizedRow; 2]) {
        self.sum += pair.loss;
        self.terms += 1;
        self.right += u64::from(pair.is_right);
        for row in rows {
            self.tokens += row.tokens.len() as u64;
            self.trainable_tokens += row.trainable() as u64;
        }
    }
}

/// The answers of a pair, the preferred one first.
fn answers(data: &[TokenizedRow], pair: usize) -> Result<[&TokenizedRow; 2], Failure> {
    match data.get(2 * pair..2 * pair + 2) {
        Some([preferred, other]) => Ok([preferred, other]),
        _ => Err(Failure::internal(format!(
            "the prepared data has no pair {pair}"
        ))),
    }
}

fn batch(row: &TokenizedRow) -> Result<Batch, Failure> {
    Ok(Batch::new(&[batch_row(row)])?)
}

fn log_probability(
    model: Model<'_>,
    batch: &Batch,
    random: Option<Randomness>,
) -> Result<f64, Failure> {
    Ok(-model.base.loss(model.lora, batch, random)?.read()?.loss)
}

/// What one pair adds to the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// -log sigmoid(beta · margin), in nats.
    pub loss: f64,
    /// Its derivative by the log-probability of the other answer; by that of the preferred one it is the negative.
    pub slope: f64,
    /// Whether the model prefers the preferred answer by more than the reference does.
    pub is_right: bool,
}

/// The loss of a pair whose answers, the preferred one first, have these log-probabilities, each the sum over its tokens.
pub fn pair_loss(beta: f64, policy: [f64; 2], reference: [f64; 2]) -> PairLoss {
    let margin = (policy[0] - reference[0]) - (policy[1] - reference[1]);
    let x = beta * margin;
    // softplus(-x), with an exponent that cannot overflow.
    let loss = (-x).max(0.0) + (-x.abs()).exp().ln_1p();
    PairLoss {
        loss,
        slope: beta / (1.0 + x.exp()),
        is_right: margin > 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_difference_the_loss_is_ln_2() {
        let pair = pair_loss(0.1, [-3.0, -7.0], [-3.0, -7.0]);
        assert!((pair.loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert!((pair.slope - 0.05).abs() < 1e-15);
        assert!(!pair.is_right);
    }

    #[test]
    fn the_slope_is_the_derivative_also_far_out() {
        for margin in [-900.0, -4.0, -0.5, 0.5, 4.0, 900.0] {
            let at = |margin: f64| pair_loss(0.7, [margin, 1.0], [0.0, 1.0]);
            let numeric = (at(margin - 1e-5).loss - at(margin + 1e-5).loss) / 2e-5;
            assert!((at(margin).slope - numeric).abs() < 1e-8, "{margin}");
            assert_eq!(at(margin).is_right, margin > 0.0);
        }
    }
}
