//! The first rows as the model sees them, for a person to look at.

use finetune_artifacts::rows::Row;
use serde::{Deserialize, Serialize};

use crate::tokenize::{Error, Tokenizer};
use crate::tokenized_row::TokenizedRow;

/// Tokens of a row that a preview shows.
const SHOWN_TOKENS: usize = 400;

/// A row as the model sees it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// Its text, in pieces that carry loss and pieces that do not.
    pub segments: Vec<Segment>,
}

/// A piece of a row.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Segment {
    /// Its text, special tokens included.
    pub text: String,
    /// Whether the model is trained to say it.
    pub loss: bool,
}

impl Preview {
    /// The preview of a row.
    pub(super) fn of(
        row: &Row,
        tokenized: &TokenizedRow,
        tokenizer: &Tokenizer,
    ) -> Result<Self, Error> {
        let shown = tokenized.tokens.len().min(SHOWN_TOKENS);
        let mut segments = Vec::new();
        let mut start = 0;
        for same in tokenized.loss[..shown].chunk_by(|left, right| left == right) {
            let end = start + same.len();
            segments.push(Segment {
                text: tokenizer.decode(&tokenized.tokens[start..end], false)?,
                loss: same[0],
            });
            start = end;
        }
        Ok(Self {
            file: row.file.to_string(),
            line: row.line,
            segments,
        })
    }
}
