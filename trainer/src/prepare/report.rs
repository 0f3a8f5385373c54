//! What a data set looks like to the model: numbers, warnings, and the first rows with what is learnt of them.

use std::fmt::Write;

use finetune_artifacts::rows::{Row, place};
use finetune_crds::fine_tune_job::{Dataset, DatasetStatus, LossOn};
use finetune_dataset::TokenizedRow;
use finetune_dataset::tokenize::{Error, Tokenizer};
use serde::{Deserialize, Serialize};

/// Tokens of a row that a preview shows.
const SHOWN_TOKENS: usize = 400;

/// What a prepared data set looks like, and what it was made from.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The digest of the job's spec.
    pub spec_digest: String,
    /// The digest of tokenizer and chat template.
    pub tokenizer_digest: String,
    /// The digest of the file with the tokens.
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

impl Report {
    /// What deserves a look, in words.
    pub(super) fn faults_to_watch(&self, dataset: &Dataset) -> Vec<String> {
        let data = &self.dataset;
        let mut warnings = Vec::new();
        let wanted_length = dataset.max_sequence_length;
        if wanted_length > self.max_length as i64 {
            warnings.push(format!(
                "dataset.maxSequenceLength is {wanted_length}, but the base was made for {}: rows are cut there",
                self.max_length
            ));
        }
        let holds_back = dataset
            .validation
            .as_ref()
            .is_some_and(|validation| validation.fraction.is_some());
        if holds_back && data.validation_rows == 0 {
            warnings.push(
                "no row could be held back for validation: give dataset.validation.sources"
                    .to_owned(),
            );
        }
        if data.truncated_rows > 0 {
            warnings.push(format!(
                "{} of {} rows are longer than {} tokens and are cut on the right, so that they do not teach how to end",
                data.truncated_rows, data.rows, self.max_length
            ));
        }
        if self.rows_without_loss > 0 {
            warnings.push(format!(
                "{} rows have no token to train on and are left out",
                self.rows_without_loss
            ));
        }
        if self.rows_without_end > 0 {
            warnings.push(format!(
                "{} of {} rows do not end with a token that ends an answer of this model: it may not learn to stop",
                self.rows_without_end, data.rows
            ));
        }
        if data.duplicate_rows > 0 {
            warnings.push(format!(
                "{} rows repeat an earlier one and count for more",
                data.duplicate_rows
            ));
        }
        if self.leaked_rows > 0 {
            warnings.push(format!(
                "{} validation rows are in the training data too: the validation loss will look better than it is",
                self.leaked_rows
            ));
        }
        warnings.extend(self.oddities());
        warnings
    }

    /// What is odd and may be meant.
    fn oddities(&self) -> Vec<String> {
        let data = &self.dataset;
        let mut warnings = Vec::new();
        let mut tell = |count: usize, what: &str| {
            if count > 0 {
                warnings.push(format!("{count} {what}"));
            }
        };
        tell(
            self.near_duplicate_rows,
            "validation rows are nearly the same as one to train on: the validation loss will look better than it is",
        );
        tell(
            self.empty_completions,
            "rows have an empty answer, which teaches to say nothing",
        );
        tell(
            self.rows_with_lost_characters,
            "rows hold U+FFFD, which stands for a character that was lost: read the original with its own encoding",
        );
        tell(
            self.files_with_byte_order_mark,
            "files begin with a byte order mark, which is skipped",
        );
        tell(
            self.files_with_carriage_returns,
            "files have lines that end in CR LF, as Windows writes them; only LF counts",
        );
        if self.replay_rows_wanted > data.replay_rows as usize {
            warnings.push(format!(
                "dataset.replay asks for {} rows and its files hold {} that fit: all are taken, once",
                self.replay_rows_wanted, data.replay_rows
            ));
        }
        warnings
    }

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
