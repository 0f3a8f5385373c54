//! What is asked of the data, and what follows from it for one form of rows.

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::rows::RowFormat;
use finetune_crds::fine_tune_job::{ChatTemplateUse, Dataset, Objective};

use super::error::Error;
use crate::encode::EncoderSettings;
use crate::tokenize::Tokenizer;

/// What preparing data needs.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What the manifest says of the data.
    pub dataset: &'a Dataset,
    /// What is to be learnt of it; absent: to say what the rows say.
    pub objective: Option<&'a Objective>,
    /// The base's tokenizer, with its chat template.
    pub tokenizer: &'a Tokenizer,
    /// The most tokens that the base was made for: longer rows are cut there, whatever the manifest says.
    pub max_positions: i64,
    /// With which the sources are read.
    pub credentials: &'a Credentials,
    /// Where downloads are kept.
    pub cache: &'a Cache,
    /// The day, which some chat templates print.
    pub day: jiff::civil::Date,
}

/// Whether rows of this form are conversations.
pub(super) const fn is_conversation(format: RowFormat) -> bool {
    matches!(format, RowFormat::Messages | RowFormat::ShareGPT)
}

impl Request<'_> {
    /// The name of the objective, where it learns from pairs of answers.
    pub(super) fn objective_of_pairs(&self) -> Option<&'static str> {
        self.objective.and_then(Objective::of_pairs)
    }

    /// Whether the base has a chat template.
    pub(super) fn has_template(&self) -> bool {
        self.tokenizer.template().is_ok()
    }

    /// Whether rows of this form go through the base's chat template.
    pub(super) fn goes_through_template(&self, format: RowFormat) -> bool {
        let texts_do = self.dataset.chat_template == ChatTemplateUse::Auto;
        self.has_template()
            && match format {
                RowFormat::Messages | RowFormat::ShareGPT => true,
                RowFormat::PromptCompletion | RowFormat::Alpaca | RowFormat::Preference => texts_do,
                RowFormat::Text => false,
            }
    }

    /// What the manifest says of rows of this form, with every default decided.
    pub(super) fn settings(&self, format: RowFormat) -> Result<EncoderSettings, Error> {
        let dataset = self.dataset;
        self.refuse_unfit(format)?;
        Ok(EncoderSettings {
            loss_on: EncoderSettings::loss_on(dataset.loss_on, format).map_err(Error::Setting)?,
            max_length: dataset.max_sequence_length.min(self.max_positions).max(2) as usize,
            append_end_of_sequence: dataset.append_end_of_sequence.unwrap_or(true),
            chat_template: dataset.chat_template,
            day: self.day,
        })
    }

    /// Refuses what the manifest says and rows of this form cannot have.
    fn refuse_unfit(&self, format: RowFormat) -> Result<(), Error> {
        let dataset = self.dataset;
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
        match (self.objective_of_pairs(), format) {
            (Some(_), RowFormat::Preference) => Ok(()),
            (Some(name), _) => Err(Error::Setting(format!(
                "objective is {name}, which learns from rows of format Preference, and the rows are {format}: give them \
                 `prompt`, `chosen` and `rejected`, or use objective sft"
            ))),
            (None, RowFormat::Preference) => Err(Error::Setting(
                "the rows are Preference, which only objective dpo learns from: set objective: { dpo: {} }".to_owned(),
            )),
            (None, _) => Ok(()),
        }
    }
}
