//! The forms that rows have: which of them a row is of, and what each makes of it.

mod alpaca;
mod messages;
mod preference;
mod prompt_completion;
mod share_gpt;
mod text;
mod unread;

use super::content::RowContent;
use super::fault::{FaultClass, Problem};
use super::record::Record;
use super::row_format::RowFormat;

pub use unread::Unread;
pub(super) use unread::is_said;

impl RowFormat {
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
