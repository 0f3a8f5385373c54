//! What was found in the data becomes its report. Pure but for the previews, which the tokenizer decodes.

use finetune_artifacts::rows::RowFormat;
use finetune_crds::fine_tune_job::{DatasetStatus, Format};

use super::error::Error;
use super::general_data::GeneralData;
use super::lint::{self, Lint};
use super::preview::Preview;
use super::report::Report;
use super::request::{Request, is_conversation};
use super::sources::Sources;
use super::split::Split;
use super::tokenized::{Place, Tokenized};
use super::{template_notes, warnings};
use crate::encode::EncoderSettings;
use crate::template::ChatTemplate;
use crate::tokenized_row::TokenizedRow;

/// What was found in the data.
pub(super) struct Found<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) sources: &'a Sources,
    pub(super) split: &'a Split<'a>,
    pub(super) settings: EncoderSettings,
    pub(super) train: &'a Tokenized,
    pub(super) validation: &'a Tokenized,
    pub(super) general: &'a GeneralData,
}

impl Found<'_> {
    /// The report, with all that deserves a look.
    pub(super) fn report(&self) -> Result<Report, Error> {
        let mut report = self.numbers(&self.lint())?;
        report.warnings = warnings::of(&report, self.request.dataset);
        report.warnings.extend(self.warnings());
        Ok(report)
    }

    fn lint(&self) -> Lint {
        lint::of(
            &self.split.train,
            &self.split.validation,
            &self.train.rows,
            self.request.tokenizer.stop_ids(),
            self.settings.max_length,
        )
    }

    /// The report without a warning.
    fn numbers(&self, lint: &Lint) -> Result<Report, Error> {
        let (request, sources) = (self.request, self.sources);
        let lengths = self.train.rows.iter().map(|row| row.tokens.len());
        Ok(Report {
            spec_digest: String::new(),
            tokenizer_digest: request.tokenizer.digest().to_owned(),
            tokens_digest: String::new(),
            day: self.printed_day(),
            texts_through_template: request.goes_through_template(sources.format)
                && !is_conversation(sources.format),
            dataset: self.status(lint),
            format_found: request.dataset.format == Format::Auto,
            loss_on: self.settings.loss_on,
            max_length: self.settings.max_length,
            longest_row: lengths.max().unwrap_or(0),
            rows_without_loss: self.train.without_loss,
            rows_without_end: lint.without_end,
            leaked_rows: self.split.leaked,
            near_duplicate_rows: lint.near_duplicates.saturating_sub(self.split.leaked),
            empty_completions: lint.empty_completions,
            rows_with_lost_characters: lint.lost_characters,
            files_with_byte_order_mark: sources.oddities.byte_order_marks,
            files_with_carriage_returns: sources.oddities.carriage_returns,
            replay_rows_wanted: self.general.wanted,
            validation_tokens: sum(&self.validation.rows, TokenizedRow::trainable),
            warnings: Vec::new(),
            preview: self.preview()?,
        })
    }

    /// The numbers of the job's status.
    fn status(&self, lint: &Lint) -> DatasetStatus {
        let (train, general) = (&self.train.rows, &self.general.rows);
        let both = |of: fn(&TokenizedRow) -> usize| sum(train, of) + sum(general, of);
        // Rows of tokens a row of the data.
        let answers = match self.request.objective_of_pairs() {
            Some(_) => 2,
            None => 1,
        };
        DatasetStatus {
            digest: self.sources.digest.clone(),
            format: self.sources.format.name().to_owned(),
            rows: (train.len() / answers + general.len()) as i64,
            tokens: both(|row| row.tokens.len()),
            trainable_tokens: both(TokenizedRow::trainable),
            truncated_rows: self.train.truncated as i64,
            duplicate_rows: self.split.duplicates as i64,
            validation_rows: (self.validation.rows.len() / answers) as i64,
            leaked_rows: self.split.leaked.max(lint.near_duplicates) as i64,
            replay_rows: general.len() as i64,
        }
    }

    /// The day, where the base's chat template prints it.
    fn printed_day(&self) -> Option<String> {
        let template = self.request.tokenizer.template();
        template
            .is_ok_and(ChatTemplate::asks_for_time)
            .then(|| self.settings.day.to_string())
    }

    fn preview(&self) -> Result<Vec<Preview>, Error> {
        let of = |at: &Place| {
            let (row, tokens) = (self.split.train[at.source], &self.train.rows[at.row]);
            Preview::of(row, tokens, self.request.tokenizer)
        };
        let previews = self.train.first.iter().map(of);
        previews
            .collect::<Result<_, _>>()
            .map_err(|error| Error::Prepared(error.to_string()))
    }

    /// What deserves a look besides the numbers: columns, then the chat template, then what is not taught.
    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> =
            self.sources.oddities.unread.warning().into_iter().collect();
        warnings.extend(self.train.notes.warnings());
        for (which, notes) in [
            ("validation", &self.validation.notes),
            ("replay", &self.general.notes),
        ] {
            let told = notes.warnings().into_iter();
            warnings.extend(told.map(|warning| format!("of the {which} rows: {warning}")));
        }
        warnings.extend(self.unnamed_end());
        warnings.extend(self.unanswered());
        warnings
    }

    /// The form of the general data.
    fn general_format(&self) -> Option<RowFormat> {
        self.sources.replay.as_ref().map(|general| general.format)
    }

    /// How the base ends a turn, where rows go through its chat template.
    fn unnamed_end(&self) -> Option<String> {
        let goes = |format| self.request.goes_through_template(format);
        let any = goes(self.sources.format) || self.general_format().is_some_and(goes);
        any.then(|| template_notes::unnamed_end(self.request.tokenizer))
            .flatten()
    }

    /// What the rows do not teach: texts alone teach no base to answer.
    fn unanswered(&self) -> Option<String> {
        let answers = |format| format != RowFormat::Text;
        let texts_alone =
            !answers(self.sources.format) && !self.general_format().is_some_and(answers);
        (texts_alone && self.request.has_template()).then(|| {
            "all rows are texts, and the base has a chat template: texts teach how they are written and what they say, not to \
             answer, and the model may answer worse than before; give it questions and answers too, such as by dataset.replay"
                .to_owned()
        })
    }
}

/// Over all rows.
fn sum(rows: &[TokenizedRow], of: fn(&TokenizedRow) -> usize) -> i64 {
    rows.iter().map(|row| of(row) as i64).sum()
}
