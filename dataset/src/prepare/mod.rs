//! The data of a job, read, checked, split and tokenised, with a report of what it looks like to the model.
//!
//! What is wrong with the data is found here, before anything costs: with file and line. Nothing here knows the model beyond its
//! tokenizer, so that data can be checked where nothing is trained.

mod error;
mod found;
mod general_data;
mod lint;
mod near_duplicates;
mod preview;
mod replay;
mod report;
mod request;
mod sources;
mod split;
mod template_notes;
mod tokenized;
mod warnings;

use crate::encode::Encoder;
use crate::tokenized_row::TokenizedRow;
use found::Found;
use general_data::GeneralData;
use split::Split;
use tokenized::Tokenized;

pub use error::Error;
pub use preview::{Preview, Segment};
pub use report::Report;
pub use request::Request;

/// Data that is ready to train on.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Rows to train on; at least one, each with a token that carries loss.
    pub train: Vec<TokenizedRow>,
    /// Rows to validate with; as the others.
    pub validation: Vec<TokenizedRow>,
    /// What the data looks like.
    pub report: Report,
}

/// Reads, checks, splits and tokenises the data. Stores nothing but downloads.
pub async fn prepare(request: &Request<'_>) -> Result<Prepared, Error> {
    let dataset = request.dataset;
    let sources = sources::read(dataset, request.credentials, request.cache).await?;
    let settings = request.settings(sources.format)?;
    let fraction = dataset.validation.as_ref().and_then(|v| v.fraction);
    let split = Split::of(&sources.train, &sources.validation, fraction);

    let encoder = Encoder::new(request.tokenizer, settings);
    let train = tokenized::tokenize(&encoder, &split.train)?;
    let validation = tokenized::tokenize(&encoder, &split.validation)?;
    refuse_nothing_to_learn(&train, split.train.len(), settings.max_length)?;
    let general = GeneralData::of(request, &sources, settings, train.rows.len(), &split.hashes)?;

    let found = Found {
        request,
        sources: &sources,
        split: &split,
        settings,
        train: &train,
        validation: &validation,
        general: &general,
    };
    let report = found.report()?;
    Ok(Prepared {
        train: replay::interleave(train.rows, general.rows),
        validation: validation.rows,
        report,
    })
}

fn refuse_nothing_to_learn(train: &Tokenized, rows: usize, length: usize) -> Result<(), Error> {
    if rows == 0 {
        return Err(Error::Empty(
            "dataset.train holds no row to train on, expected at least one".to_owned(),
        ));
    }
    if train.rows.is_empty() {
        return Err(Error::Empty(format!(
            "not one of the {rows} rows has a token to train on: check dataset.lossOn, that conversations have assistant \
             turns, and that these begin before token {length}, where rows are cut (dataset.maxSequenceLength)"
        )));
    }
    Ok(())
}
