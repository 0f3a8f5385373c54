//! What a data set looks like to the model: numbers, warnings, and the first rows with what is learnt of them; as JSON and for a
//! person.

use std::fmt::Write;

use finetune_artifacts::rows::place;
use finetune_crds::fine_tune_job::{DatasetStatus, LossOn};
use serde::{Deserialize, Serialize};

use super::preview::Preview;

/// What a prepared data set looks like, and what it was made from.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The digest of the job's spec; empty until the set is stored.
    pub spec_digest: String,
    /// The digest of tokenizer and chat template.
    pub tokenizer_digest: String,
    /// The digest of the file with the tokens; empty until the set is stored.
    pub tokens_digest: String,
    /// The day that the chat template prints, where it prints one. It stays when the data is prepared again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Whether prompts and answers that are plain texts went through the base's chat template.
    #[serde(default)]
    pub texts_through_template: bool,
    /// The numbers of the job's status.
    pub dataset: DatasetStatus,
    /// Whether the form of the rows was read off the first row.
    pub format_found: bool,
    /// Which tokens carry loss.
    pub loss_on: LossOn,
    /// Where rows are cut.
    pub max_length: usize,
    /// Tokens of the longest row to train on.
    pub longest_row: usize,
    /// Rows left out, because no token of them carries loss.
    pub rows_without_loss: usize,
    /// Rows that are not cut and whose last trained token does not end an answer.
    pub rows_without_end: usize,
    /// Rows of the validation files that are trained on too.
    pub leaked_rows: usize,
    /// Rows to validate with that are nearly the same as one to train on.
    pub near_duplicate_rows: usize,
    /// Rows to train on with an empty answer, completion or text.
    pub empty_completions: usize,
    /// Rows to train on with U+FFFD, which stands for what an earlier program could not read.
    pub rows_with_lost_characters: usize,
    /// Files that begin with a byte order mark, which is skipped.
    pub files_with_byte_order_mark: usize,
    /// Files whose lines end in carriage return and line feed.
    pub files_with_carriage_returns: usize,
    /// Rows of general data that the fraction asks for.
    pub replay_rows_wanted: usize,
    /// Tokens that carry loss in validation.
    pub validation_tokens: i64,
    /// What deserves a look.
    pub warnings: Vec<String>,
    /// The first rows.
    pub preview: Vec<Preview>,
}

impl Report {
    /// The report for a person.
    pub fn to_text(&self) -> String {
        let data = &self.dataset;
        let loss_on = match self.loss_on {
            LossOn::Completion => "completions",
            LossOn::Assistant => "assistant turns",
            LossOn::All => "all tokens",
        };
        let mut text = format!(
            "{} rows to train on ({}), {} to validate with\n\
             {} tokens, {} of them trained ({loss_on}); longest row {} of at most {}\n",
            data.rows,
            data.format,
            data.validation_rows,
            data.tokens,
            data.trainable_tokens,
            self.longest_row,
            self.max_length,
        );
        if self.format_found {
            let _ = writeln!(
                text,
                "format {}, found by the columns of the first row; dataset.format can say so",
                data.format
            );
        }
        if self.texts_through_template {
            let _ = writeln!(
                text,
                "each prompt goes through the base's chat template as a turn of the user; dataset.chatTemplate: Never leaves it out"
            );
        }
        if let Some(day) = &self.day {
            let _ = writeln!(
                text,
                "the chat template prints a date, which is {day} in all rows"
            );
        }
        if data.replay_rows > 0 {
            let _ = writeln!(text, "{} of the rows are general data", data.replay_rows);
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        for row in &self.preview {
            let _ = writeln!(
                text,
                "\n{}, what is learnt in «»:",
                place(&row.file, row.line)
            );
            for segment in &row.segments {
                if segment.loss {
                    let _ = write!(text, "«{}»", segment.text);
                } else {
                    text.push_str(&segment.text);
                }
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// The report as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers only: serialising cannot fail.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}
