//! Supervised fine-tuning: the mean of -log p of the tokens that carry loss.

use finetune_dataset::{MicroBatchSize, TokenizedRow, micro_batches};
use finetune_numerics::model::{Batch, Row};

use super::{Chance, GoesOn, Loss, Model, StepRows, batch_row};
use crate::failure::Failure;

/// Adds the gradient of the mean loss over the step's rows to the parameters', a micro-batch of them at a time.
///
/// The mean is taken over the unmasked tokens of all rows together, and each row is computed as if it stood alone, also where
/// frequencies of the rotation depend on its length: so the result does not depend on how they were cut into passes, but for
/// what is random.
pub(super) fn accumulate_gradient(
    model: Model<'_>,
    chance: Chance,
    StepRows {
        data,
        rows,
        micro_batch_size,
        step,
    }: StepRows<'_>,
    goes_on: GoesOn<'_>,
) -> Result<Option<Loss>, Failure> {
    let mut loss = counted(data, rows.iter().flatten());
    let scale = 1.0 / loss.trainable_tokens.max(1) as f64;
    let tokens_of = |row: usize| data[row].tokens.len();
    let passes = micro_batches(rows, tokens_of, micro_batch_size);
    let count = passes.len();
    let mut sum = None;
    for (pass, rows) in passes.into_iter().enumerate() {
        if !goes_on() {
            return Ok(None);
        }
        tracing::debug!("step {}: pass {} of {count}", step + 1, pass + 1);
        let batch = batch(data, &rows, Layout::of(chance))?; // (1, T) end to end, or (B, T) padded
        let random = chance.of_pass(step, pass as u64);
        let of_pass = model
            .base
            .loss_and_gradient(model.lora, &batch, scale, Some(random))?;
        sum = Some(of_pass.with(sum)?);
    }
    loss.add_all(sum)?;
    Ok(Some(loss))
}

/// The loss of all of `data`, without gradients.
pub(super) fn loss(
    model: Model<'_>,
    data: &[TokenizedRow],
    micro_batch_size: MicroBatchSize,
    goes_on: GoesOn<'_>,
) -> Result<Option<Loss>, Failure> {
    let rows: Vec<Vec<usize>> = (0..data.len()).map(|row| vec![row]).collect();
    let mut loss = counted(data, rows.iter().flatten());
    let tokens_of = |row: usize| data[row].tokens.len();
    let passes = micro_batches(&rows, tokens_of, micro_batch_size);
    let count = passes.len();
    let mut sum = None;
    for (pass, rows) in passes.into_iter().enumerate() {
        if !goes_on() {
            return Ok(None);
        }
        tracing::debug!("validation: pass {} of {count}", pass + 1);
        let batch = batch(data, &rows, Layout::EndToEnd)?; // (1, T)
        sum = Some(model.base.loss(model.lora, &batch, None)?.with(sum)?);
    }
    loss.add_all(sum)?;
    Ok(Some(loss))
}

/// Tokens of the rows, and those of them that carry loss.
fn counted<'a>(data: &[TokenizedRow], rows: impl Iterator<Item = &'a usize>) -> Loss {
    let rows = rows.map(|row| &data[*row]);
    rows.fold(Loss::default(), |loss, row| Loss {
        tokens: loss.tokens + row.tokens.len() as u64,
        terms: loss.terms + row.trainable() as u64,
        trainable_tokens: loss.trainable_tokens + row.trainable() as u64,
        ..loss
    })
}

/// How the rows of a pass lie in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Layout {
    /// All in one row, each a document of it: nothing is computed of padding.
    EndToEnd,
    /// Each by itself, padded to the longest.
    Padded,
}

impl Layout {
    /// NEFTune's noise depends on the length of the rows of a pass, as transformers pads them.
    const fn of(chance: Chance) -> Self {
        match chance.noise_alpha {
            None => Self::EndToEnd,
            Some(_) => Self::Padded,
        }
    }
}

fn batch(data: &[TokenizedRow], rows: &[Vec<usize>], layout: Layout) -> Result<Batch, Failure> {
    let row = |documents: &[usize]| -> Vec<Row<'_>> {
        let rows = documents.iter().map(|row| batch_row(&data[*row]));
        rows.collect()
    };
    let rows: Vec<_> = match layout {
        Layout::EndToEnd => vec![row(&rows.concat())],
        Layout::Padded => rows.iter().map(|documents| row(documents)).collect(),
    };
    Ok(Batch::packed(&rows)?)
}
