//! The data of a job, read, checked, split and tokenised, and kept as a prepared set that training reads.
//!
//! `prepare` makes the set anew, `load` reads it back and refuses one that was made for another manifest or tokenizer. What
//! is wrong with the data is found here, before anything costs: with file and line.

mod lint;
mod prepared;
mod replay;
mod report;
pub(crate) mod servable;
mod sources;
mod template_notes;
mod tokenized;

use std::collections::HashSet;
use std::path::Path;

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::rows::{Faults, Row, RowFormat};
use finetune_artifacts::split;
use finetune_artifacts::store::Store;
use finetune_crds::FineTuneJobSpec;
use finetune_crds::contract::OutcomeReason;
use finetune_crds::fine_tune_job::{ChatTemplateUse, DatasetStatus, Format};

use crate::base::BaseModelFiles;
use crate::failure::Failure;
use crate::job::TrainingObjective;
use sources::Sources;
use tokenized::Tokenized;

use finetune_dataset::template::ChatTemplate;
use finetune_dataset::{Encoder, EncoderSettings, TokenizedRow};
pub use prepared::load;
pub use report::{Preview, Report, Segment};

/// What can go wrong with the data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store or the cache failed.
    #[error(transparent)]
    Store(#[from] finetune_artifacts::Error),
    /// Rows are malformed, or the template refuses them.
    #[error("{0}")]
    Rows(#[from] Faults),
    /// The template is at fault with every row.
    #[error("{at}: {error}")]
    Template {
        /// The row at which that was found.
        at: String,
        /// The fault.
        error: finetune_dataset::template::Error,
    },
    /// A field of the manifest does not fit the data.
    #[error("{0}")]
    Setting(String),
    /// There is nothing to learn from.
    #[error("{0}")]
    Empty(String),
    /// The prepared set belongs to something else.
    #[error("the prepared data in {uri} was made for another {what}: {cure}")]
    Stale {
        /// Where it lies.
        uri: String,
        /// What differs.
        what: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// The prepared set cannot be read or written.
    #[error("prepared data: {0}")]
    Prepared(String),
}

impl Error {
    /// The class that an outcome carries.
    pub fn reason(&self) -> OutcomeReason {
        match self {
            Self::Store(error) => error.reason(),
            Self::Rows(_)
            | Self::Template { .. }
            | Self::Setting(_)
            | Self::Empty(_)
            | Self::Stale { .. } => OutcomeReason::InvalidInput,
            Self::Prepared(_) => OutcomeReason::Internal,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::new(error.reason(), error.to_string());
        match &error {
            Error::Store(error) => failure.at_store(error),
            _ => failure,
        }
    }
}

/// What preparing needs.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The job.
    pub spec: &'a FineTuneJobSpec,
    /// Its base; the weights are not read.
    pub base: &'a BaseModelFiles,
    /// With which the data is read.
    pub credentials: &'a Credentials,
    /// Where downloads are kept.
    pub cache: &'a Cache,
    /// The job's passing folder.
    pub passing: &'a Store,
    /// A local directory for files on their way.
    pub local: &'a Path,
    /// The day, which some chat templates print. A set that is prepared again keeps the day on which it was prepared first.
    pub today: jiff::civil::Date,
}

/// A prepared set.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Rows to train on; at least one, each with a token that carries loss.
    pub train: Vec<TokenizedRow>,
    /// Rows to validate with; as the others.
    pub validation: Vec<TokenizedRow>,
    /// What the data looks like.
    pub report: Report,
}

/// Reads, checks, splits and tokenises the data, and keeps it in the passing folder.
pub async fn prepare(request: &Request<'_>) -> Result<Prepared, Error> {
    let notes = servable::check(request.spec, request.base.config()).map_err(Error::Setting)?;
    let dataset = &request.spec.dataset;
    let sources = sources::read(dataset, request.credentials, request.cache).await?;
    let day = prepared::day(request).await?.unwrap_or(request.today);
    let settings = settings(request, sources.format, day)?;
    let split = Split::of(
        &sources,
        dataset.validation.as_ref().and_then(|v| v.fraction),
    );

    let encoder = Encoder::new(request.base.tokenizer(), settings);
    let train = tokenized::tokenize(&encoder, &split.train)?;
    let validation = tokenized::tokenize(&encoder, &split.validation)?;
    refuse_nothing_to_learn(&train, split.train.len(), settings.max_length)?;
    let general = general(request, &sources, &split, settings, train.rows.len())?;

    let mut report = report(
        request,
        &sources,
        &split,
        settings,
        &train,
        &validation,
        &general,
    )?;
    report.warnings.extend(train.notes.warnings());
    for (which, notes) in [
        ("validation", &validation.notes),
        ("replay", &general.notes),
    ] {
        let warnings = notes.warnings().into_iter();
        report
            .warnings
            .extend(warnings.map(|warning| format!("of the {which} rows: {warning}")));
    }
    let replayed = sources.replay.as_ref().map(|general| general.format);
    if goes_through_template(request, sources.format)
        || replayed.is_some_and(|format| goes_through_template(request, format))
    {
        report
            .warnings
            .extend(template_notes::unnamed_end(request.base.tokenizer()));
    }
    report.warnings.extend(unanswered(request, &sources));
    report.warnings.extend(notes);
    let prepared = Prepared {
        train: replay::interleave(train.rows, general.rows),
        validation: validation.rows,
        report,
    };
    prepared::write(request, prepared).await
}

/// General data, tokenised.
#[derive(Default)]
struct General {
    rows: Vec<TokenizedRow>,
    /// How many there should be.
    wanted: usize,
    /// What the chat template does to them.
    notes: template_notes::TemplateNotes,
}

fn general(
    request: &Request<'_>,
    sources: &Sources,
    split: &Split<'_>,
    settings: EncoderSettings,
    count: usize,
) -> Result<General, Error> {
    let dataset = &request.spec.dataset;
    let (Some(found), Some(replay)) = (&sources.replay, &dataset.replay) else {
        return Ok(General::default());
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
    let chosen = replay::choose(&found.rows, replay.fraction, count, &split.hashes);
    let encoder = Encoder::new(request.base.tokenizer(), settings);
    let tokenized = tokenized::tokenize(&encoder, &chosen.rows)?;
    let mut rows = tokenized.rows;
    // A document becomes more than one row.
    rows.truncate(chosen.wanted);
    Ok(General {
        rows,
        wanted: chosen.wanted,
        notes: tokenized.notes,
    })
}

/// What the manifest says of rows, with every default decided.
fn settings(
    request: &Request<'_>,
    format: RowFormat,
    day: jiff::civil::Date,
) -> Result<EncoderSettings, Error> {
    let dataset = &request.spec.dataset;
    if dataset.chat_template == ChatTemplateUse::Never && is_conversation(format) {
        return Err(Error::Setting(format!(
            "dataset.chatTemplate is Never, and the rows are {format}, which nothing but a chat template makes a text of: \
             remove it"
        )));
    }
    if format != RowFormat::Text && dataset.append_end_of_sequence.is_some() {
        return Err(Error::Setting(format!(
            "dataset.appendEndOfSequence is set, which applies to format Text only, and the rows are {format}: remove it"
        )));
    }
    match (TrainingObjective::of(request.spec), format) {
        (TrainingObjective::Dpo { .. }, RowFormat::Preference) => {}
        (TrainingObjective::Dpo { .. }, _) => {
            return Err(Error::Setting(format!(
                "objective is dpo, which learns from rows of format Preference, and the rows are {format}: give them \
                 `prompt`, `chosen` and `rejected`, or use objective sft"
            )));
        }
        (TrainingObjective::Sft, RowFormat::Preference) => {
            return Err(Error::Setting(
                "the rows are Preference, which only objective dpo learns from: set objective: { dpo: {} }".to_owned(),
            ));
        }
        (TrainingObjective::Sft, _) => {}
    }
    Ok(EncoderSettings {
        loss_on: EncoderSettings::loss_on(dataset.loss_on, format).map_err(Error::Setting)?,
        max_length: dataset
            .max_sequence_length
            .min(request.base.config().max_position_embeddings)
            .max(2) as usize,
        append_end_of_sequence: dataset.append_end_of_sequence.unwrap_or(true),
        chat_template: dataset.chat_template,
        day,
    })
}

/// Whether rows of this form are conversations.
fn is_conversation(format: RowFormat) -> bool {
    matches!(format, RowFormat::Messages | RowFormat::ShareGPT)
}

/// Whether rows of this form go through the base's chat template.
fn goes_through_template(request: &Request<'_>, format: RowFormat) -> bool {
    let texts_do = request.spec.dataset.chat_template == ChatTemplateUse::Auto;
    request.base.tokenizer().template().is_ok()
        && match format {
            RowFormat::Messages | RowFormat::ShareGPT => true,
            RowFormat::PromptCompletion | RowFormat::Alpaca | RowFormat::Preference => texts_do,
            RowFormat::Text => false,
        }
}

/// What the rows do not teach: texts alone teach no base to answer.
fn unanswered(request: &Request<'_>, sources: &Sources) -> Option<String> {
    let answers = |format| format != RowFormat::Text;
    let general = sources.replay.as_ref().map(|general| general.format);
    let texts_alone = !answers(sources.format) && !general.is_some_and(answers);
    (texts_alone && request.base.tokenizer().template().is_ok()).then(|| {
        "all rows are texts, and the base has a chat template: texts teach how they are written and what they say, not to \
         answer, and the model may answer worse than before; give it questions and answers too, such as by dataset.replay"
            .to_owned()
    })
}

/// The rows on both sides.
struct Split<'rows> {
    train: Vec<&'rows Row>,
    validation: Vec<&'rows Row>,
    /// Of the content of all rows.
    hashes: HashSet<[u8; 32]>,
    /// Rows to train on whose content was there before.
    duplicates: usize,
    /// Rows to validate with that are trained on too.
    leaked: usize,
}

impl<'rows> Split<'rows> {
    fn of(sources: &'rows Sources, fraction: Option<f64>) -> Self {
        let hashes: Vec<[u8; 32]> = sources.train.iter().map(|row| row.content.hash()).collect();
        let held = match fraction {
            Some(fraction) => split::held_back(&hashes, fraction),
            None => vec![false; hashes.len()],
        };
        let mut seen = HashSet::new();
        let mut result = Self {
            train: Vec::new(),
            validation: sources.validation.iter().collect(),
            hashes: HashSet::new(),
            duplicates: 0,
            leaked: 0,
        };
        for ((row, hash), held) in sources.train.iter().zip(&hashes).zip(held) {
            if held {
                result.validation.push(row);
            } else {
                result.train.push(row);
                result.duplicates += usize::from(!seen.insert(*hash));
            }
        }
        let leaked = |row: &&Row| seen.contains(&row.content.hash());
        result.leaked = sources.validation.iter().filter(leaked).count();
        let validation = result.validation.iter().map(|row| row.content.hash());
        result.hashes = seen.into_iter().chain(validation).collect();
        result
    }
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

/// Whether the base's chat template prints the date.
fn prints_day(request: &Request<'_>) -> bool {
    let template = request.base.tokenizer().template();
    template.is_ok_and(ChatTemplate::asks_for_time)
}

fn report(
    request: &Request<'_>,
    sources: &Sources,
    split: &Split<'_>,
    settings: EncoderSettings,
    train: &Tokenized,
    validation: &Tokenized,
    general: &General,
) -> Result<Report, Error> {
    let spec = &request.spec.dataset;
    let sum = |rows: &[TokenizedRow], of: fn(&TokenizedRow) -> usize| -> i64 {
        rows.iter().map(|row| of(row) as i64).sum()
    };
    let both = |of: fn(&TokenizedRow) -> usize| sum(&train.rows, of) + sum(&general.rows, of);
    let lint = lint::of(
        &split.train,
        &split.validation,
        &train.rows,
        request.base.tokenizer().stop_ids(),
        settings.max_length,
    );
    // Rows of tokens a row of the data.
    let answers = match TrainingObjective::of(request.spec) {
        TrainingObjective::Sft => 1,
        TrainingObjective::Dpo { .. } => 2,
    };
    let dataset = DatasetStatus {
        digest: sources.digest.clone(),
        format: sources.format.name().to_owned(),
        rows: (train.rows.len() / answers + general.rows.len()) as i64,
        tokens: both(|row| row.tokens.len()),
        trainable_tokens: both(TokenizedRow::trainable),
        truncated_rows: train.truncated as i64,
        duplicate_rows: split.duplicates as i64,
        validation_rows: (validation.rows.len() / answers) as i64,
        leaked_rows: split.leaked.max(lint.near_duplicates) as i64,
        replay_rows: general.rows.len() as i64,
    };
    let lengths = train.rows.iter().map(|row| row.tokens.len());
    let mut report = Report {
        spec_digest: request.spec.digest(),
        tokenizer_digest: request.base.tokenizer().digest().to_owned(),
        tokens_digest: String::new(),
        day: prints_day(request).then(|| settings.day.to_string()),
        texts_through_template: goes_through_template(request, sources.format)
            && !is_conversation(sources.format),
        dataset,
        format_found: spec.format == Format::Auto,
        loss_on: settings.loss_on,
        max_length: settings.max_length,
        longest_row: lengths.max().unwrap_or(0),
        rows_without_loss: train.without_loss,
        rows_without_end: lint.without_end,
        leaked_rows: split.leaked,
        near_duplicate_rows: lint.near_duplicates.saturating_sub(split.leaked),
        empty_completions: lint.empty_completions,
        rows_with_lost_characters: lint.lost_characters,
        files_with_byte_order_mark: sources.oddities.byte_order_marks,
        files_with_carriage_returns: sources.oddities.carriage_returns,
        replay_rows_wanted: general.wanted,
        validation_tokens: sum(&validation.rows, TokenizedRow::trainable),
        warnings: Vec::new(),
        preview: train
            .first
            .iter()
            .map(|at| {
                Preview::of(
                    split.train[at.source],
                    &train.rows[at.row],
                    request.base.tokenizer(),
                )
            })
            .collect::<Result<_, _>>()
            .map_err(|error| Error::Prepared(error.to_string()))?,
    };
    report.warnings = report.faults_to_watch(spec);
    report.warnings.extend(sources.oddities.unread.warning());
    Ok(report)
}
