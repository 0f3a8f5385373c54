//! General data that is mixed in: as much as the manifest asks for, tokenised.

use std::collections::HashSet;

use super::error::Error;
use super::request::Request;
use super::sources::Sources;
use super::template_notes::TemplateNotes;
use super::{replay, tokenized};
use crate::encode::{Encoder, EncoderSettings};
use crate::tokenized_row::TokenizedRow;

/// General data, tokenised.
#[derive(Default)]
pub(super) struct GeneralData {
    pub(super) rows: Vec<TokenizedRow>,
    /// How many there should be.
    pub(super) wanted: usize,
    /// What the chat template does to them.
    pub(super) notes: TemplateNotes,
}

impl GeneralData {
    /// What the manifest asks for beside `count` rows; none of the rows in `taken`. `settings` are those of the other rows.
    pub(super) fn of(
        request: &Request<'_>,
        sources: &Sources,
        settings: EncoderSettings,
        count: usize,
        taken: &HashSet<[u8; 32]>,
    ) -> Result<Self, Error> {
        let (Some(found), Some(replay)) = (&sources.replay, &request.dataset.replay) else {
            return Ok(Self::default());
        };
        let settings = if found.format == sources.format {
            settings
        } else {
            EncoderSettings {
                loss_on: EncoderSettings::loss_on(None, found.format).map_err(Error::Setting)?,
                append_end_of_sequence: true,
                ..settings
            }
        };
        let chosen = replay::choose(&found.rows, replay.fraction, count, taken);
        let encoder = Encoder::new(request.tokenizer, settings);
        let tokenized = tokenized::tokenize(&encoder, &chosen.rows)?;
        let mut rows = tokenized.rows;
        // A document becomes more than one row.
        rows.truncate(chosen.wanted);
        Ok(Self {
            rows,
            wanted: chosen.wanted,
            notes: tokenized.notes,
        })
    }
}
