//! Tokenises many rows on all cores, in their order.

use std::sync::atomic::{AtomicBool, Ordering};

use finetune_artifacts::rows::{Fault, FaultClass, Faults, Row, RowContent, place};

use super::error::Error;
use super::template_notes::{self, TemplateNotes};
use crate::encode::{EncodedRow, Encoder};
use crate::refusal::Refusal;
use crate::template;
use crate::tokenized_row::TokenizedRow;

/// How many rows a preview shows.
const SHOWN_ROWS: usize = 2;

/// Rows of tokens and what was counted on the way.
#[derive(Debug, Default)]
pub(super) struct Tokenized {
    /// The rows that have a token to train on.
    pub(super) rows: Vec<TokenizedRow>,
    /// How many of them were cut.
    pub(super) truncated: usize,
    /// Rows that were left out, because no token of them carries loss.
    pub(super) without_loss: usize,
    /// The first rows.
    pub(super) first: Vec<Place>,
    /// What the chat template does to them.
    pub(super) notes: TemplateNotes,
}

/// Where a row stands before and after tokenising.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) source: usize,
    pub(super) row: usize,
}

/// Tokenises `rows`; what is wrong with them is reported together. A template that runs out of fuel ends it: with a million rows it
/// would be tried for days.
pub(super) fn tokenize(encoder: &Encoder<'_>, rows: &[&Row]) -> Result<Tokenized, Error> {
    let mut result = Tokenized::default();
    let special_tokens = match encoder.goes_through_template() {
        true => template_notes::special_tokens(encoder.tokenizer()),
        false => Vec::new(),
    };
    let mut faults = Faults::default();
    for (source, (row, encoded)) in encode_all(encoder, rows).into_iter().enumerate() {
        match encoded {
            Ok(encoded) => {
                result.notes.add(row, &encoded, &special_tokens);
                let has_loss = |encoded: &EncodedRow| encoded.row.trainable() > 0;
                let trainable: Vec<EncodedRow> = match &row.content {
                    // The answers of a preference stay together.
                    RowContent::Preference { .. } if !encoded.iter().all(has_loss) => Vec::new(),
                    _ => encoded.into_iter().filter(has_loss).collect(),
                };
                if trainable.is_empty() {
                    result.without_loss += 1;
                    continue;
                }
                if result.first.len() < SHOWN_ROWS {
                    result.first.push(Place {
                        source,
                        row: result.rows.len(),
                    });
                }
                for encoded in trainable {
                    result.truncated += usize::from(encoded.truncated);
                    result.rows.push(encoded.row);
                }
            }
            Err(Refusal::Template(error)) => {
                return Err(Error::Template {
                    at: place(&row.file, row.line),
                    error,
                });
            }
            Err(Refusal::Row(message)) => faults.add(Fault {
                file: row.file.clone(),
                line: row.line,
                class: FaultClass::TemplateRefused,
                message,
            }),
        }
    }
    if faults.count == 0 {
        Ok(result)
    } else {
        Err(faults.into())
    }
}

/// The rows of each share in their order, up to where the template is at fault.
fn encode_all<'rows>(
    encoder: &Encoder<'_>,
    rows: &[&'rows Row],
) -> Vec<(&'rows Row, Result<Vec<EncodedRow>, Refusal>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = rows.len().div_ceil(threads).max(1);
    let at_fault = AtomicBool::new(false);
    let encode_share = |rows: &[&'rows Row]| {
        let mut encoded = Vec::with_capacity(rows.len());
        for row in rows {
            if at_fault.load(Ordering::Relaxed) {
                break;
            }
            let tokens = encoder.encode(row);
            if matches!(tokens, Err(Refusal::Template(_))) {
                at_fault.store(true, Ordering::Relaxed);
            }
            encoded.push((*row, tokens));
        }
        encoded
    };
    let encode_share = &encode_share;
    std::thread::scope(|scope| {
        let workers: Vec<_> = rows
            .chunks(share)
            .map(|rows| scope.spawn(move || template::for_many(|| encode_share(rows))))
            .collect();
        workers
            .into_iter()
            .zip(rows.chunks(share))
            .flat_map(|(worker, rows)| {
                let panicked = "the tokenizer panicked on it or on a row near it";
                worker.join().unwrap_or_else(|_| {
                    let refused = |row: &&'rows Row| (*row, Err(panicked.to_owned().into()));
                    rows.iter().map(refused).collect()
                })
            })
            .collect()
    })
}
