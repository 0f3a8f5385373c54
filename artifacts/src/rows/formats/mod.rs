//! The forms that rows have: which columns make each, and what it makes of them.

mod alpaca;
mod messages;
mod preference;
mod prompt_completion;
mod share_gpt;
mod text;
mod unread;

use std::fmt;

use finetune_crds::fine_tune_job::{Columns, Format};

use super::content::RowContent;
use super::fault::{FaultClass, Problem};
use super::record::Record;

pub use unread::Unread;
pub(super) use unread::is_said;

/// The form of the rows, once known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RowFormat {
    /// `{"messages": [{"role": …, "content": …}, …], "tools": […]}`.
    Messages,
    /// `{"prompt": …, "completion": …}`.
    PromptCompletion,
    /// `{"text": …}`, or a document.
    Text,
    /// `{"instruction": …, "input": …, "output": …}`, with `system` and `history` before them.
    Alpaca,
    /// `{"conversations": [{"from": …, "value": …}, …]}`.
    ShareGPT,
    /// `{"prompt": …, "chosen": …, "rejected": …}`.
    Preference,
}

impl RowFormat {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Messages,
        Self::PromptCompletion,
        Self::Text,
        Self::Alpaca,
        Self::ShareGPT,
        Self::Preference,
    ];

    /// The form that the manifest asks for; `None` where it is to be found out.
    pub const fn wanted(format: Format) -> Option<Self> {
        match format {
            Format::Auto => None,
            Format::Messages => Some(Self::Messages),
            Format::PromptCompletion => Some(Self::PromptCompletion),
            Format::Text => Some(Self::Text),
            Format::Alpaca => Some(Self::Alpaca),
            Format::ShareGPT => Some(Self::ShareGPT),
            Format::Preference => Some(Self::Preference),
        }
    }

    /// The columns that make the form.
    pub const fn required(self) -> &'static [&'static str] {
        match self {
            Self::Messages => &["messages"],
            Self::PromptCompletion => &["prompt", "completion"],
            Self::Text => &["text"],
            Self::Alpaca => &["instruction", "output"],
            Self::ShareGPT => &["conversations"],
            Self::Preference => &["prompt", "chosen", "rejected"],
        }
    }

    /// The columns that may be there.
    pub const fn optional(self) -> &'static [&'static str] {
        match self {
            Self::Messages => &["tools"],
            Self::PromptCompletion | Self::Text | Self::Preference => &[],
            Self::Alpaca => &["input", "system", "history"],
            Self::ShareGPT => &["system", "tools"],
        }
    }

    /// Whether the form has every column that `columns` names.
    pub fn has(self, columns: &Columns) -> bool {
        columns
            .named()
            .all(|(name, _)| self.required().contains(&name) || self.optional().contains(&name))
    }

    /// The name, as the manifest has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages => "Messages",
            Self::PromptCompletion => "PromptCompletion",
            Self::Text => "Text",
            Self::Alpaca => "Alpaca",
            Self::ShareGPT => "ShareGPT",
            Self::Preference => "Preference",
        }
    }

    /// Whether rows of this form are read from the column that the files call `name`.
    pub(super) fn reads(self, name: &str, names: &Columns) -> bool {
        let mut known = self.required().iter().chain(self.optional());
        known.any(|column| names.get(column).unwrap_or(column) == name)
    }

    /// What a row of this form holds.
    pub(super) fn parse(self, record: &Record<'_>) -> Result<RowContent, Problem> {
        match self {
            Self::Messages => messages::parse(record),
            Self::PromptCompletion => prompt_completion::parse(record),
            Self::Text => text::parse(record),
            Self::Alpaca => alpaca::parse(record),
            Self::ShareGPT => share_gpt::parse(record),
            Self::Preference => preference::parse(record),
        }
    }
}

impl fmt::Display for RowFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The form of a row by its columns.
pub(super) fn detect(record: &Record<'_>) -> Result<RowFormat, Problem> {
    let named = RowFormat::ALL
        .into_iter()
        .filter(|format| format.has(record.names));
    let mut found: Vec<RowFormat> = named
        .clone()
        .filter(|format| record.says(*format))
        .collect();
    if found.is_empty() {
        found.extend(named.clone().filter(|format| record.fits(*format)));
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(format), None) => Ok(format),
        (Some(one), Some(other)) => Err(Problem::new(
            FaultClass::AmbiguousFormat,
            format!(
                "the row has the columns of {one} and of {other}: set dataset.format to the one that is meant"
            ),
        )),
        (None, _) => {
            let makes_a_form = |column: &str| {
                let mut formats = RowFormat::ALL.iter();
                formats.any(|format| format.required().contains(&column))
            };
            if let Some(message) = record.misnamed(makes_a_form) {
                return Err(Problem::new(FaultClass::UnrecognizedFormat, message));
            }
            let cure = match record.names.named().next() {
                None => ": dataset.columns can name others",
                Some(_) => ", as dataset.columns names them: correct it, or the rows",
            };
            let forms: Vec<String> = named
                .map(|format| {
                    let names = format.required().iter();
                    let names: Vec<String> = names
                        .map(|name| format!("`{}`", record.name_of(name)))
                        .collect();
                    names.join(" and ")
                })
                .collect();
            Err(Problem::new(
                FaultClass::UnrecognizedFormat,
                format!(
                    "the row has the columns {}, expected {}{cure}",
                    record.listed(),
                    forms.join(", or ")
                ),
            ))
        }
    }
}
