//! What is odd about rows and no fault: counted, so that a person can look.

use std::collections::HashSet;

use finetune_artifacts::rows::Row;

use super::near_duplicates::Texts;
use crate::tokenized_row::TokenizedRow;

/// What stands for a character that an earlier program could not read.
const LOST: char = '\u{fffd}';

/// What was counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Lint {
    /// Rows to train on with an empty answer, completion or text.
    pub(super) empty_completions: usize,
    /// Rows to train on with a character that was lost before.
    pub(super) lost_characters: usize,
    /// Rows that are not cut and whose last trained token ends no answer.
    pub(super) without_end: usize,
    /// Rows to validate with that are trained on too, word for word or nearly so.
    pub(super) near_duplicates: usize,
}

/// Counts over the rows to train on and to validate with. `stops` end an answer; rows are cut at `max_length`.
pub(super) fn of(
    train: &[&Row],
    validation: &[&Row],
    tokenized: &[TokenizedRow],
    stops: &[u32],
    max_length: usize,
) -> Lint {
    let lost = |row: &&&Row| row.content.texts().iter().any(|text| text.contains(LOST));
    let without_end = |row: &&TokenizedRow| {
        let last = row.loss.iter().rposition(|loss| *loss);
        row.tokens.len() < max_length && !last.is_some_and(|last| stops.contains(&row.tokens[last]))
    };
    Lint {
        empty_completions: train
            .iter()
            .filter(|row| row.content.has_empty_completion())
            .count(),
        lost_characters: train.iter().filter(lost).count(),
        without_end: tokenized.iter().filter(without_end).count(),
        near_duplicates: near_duplicates(train, validation),
    }
}

fn near_duplicates(train: &[&Row], validation: &[&Row]) -> usize {
    if validation.is_empty() {
        return 0;
    }
    let texts = Texts::new(validation.iter().map(|row| row.content.words()));
    let near: HashSet<usize> = train
        .iter()
        .flat_map(|row| texts.near(&row.content.words()))
        .collect();
    near.len()
}
