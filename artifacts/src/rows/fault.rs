//! What is wrong with rows: where, in which class, and how often.
//!
//! The classes that OpenAI's check of fine-tuning data has go by its names. The others are this project's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::file_name::unit;

/// How many faults are shown.
pub const SHOWN_FAULTS: usize = 20;
/// How many places of rows with the same fault are shown.
const SHOWN_PLACES: usize = 3;

/// The class of a fault.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum FaultClass {
    /// A value is of the wrong type; the row itself is no object.
    DataType,
    /// `messages` is absent or empty.
    MissingMessagesList,
    /// A message lacks `role` or `content`.
    MessageMissingKey,
    /// A message has a field that nothing would act on.
    MessageUnrecognizedKey,
    /// A role that no conversation has.
    UnrecognizedRole,
    /// A message says nothing.
    MissingContent,
    /// No message is from the assistant.
    ExampleMissingAssistantMessage,
    /// A message's weight is neither 0 nor 1, or not on an assistant's message.
    InvalidWeight,
    /// `tools` is no list of functions.
    InvalidTools,
    /// A message's calls are no list of calls of functions.
    InvalidToolCalls,
    /// A column that the format needs is absent.
    MissingColumn,
    /// A column that nothing would act on changes what is said.
    UnreadColumn,
    /// The columns are those of no format.
    UnrecognizedFormat,
    /// The columns are those of more than one format.
    AmbiguousFormat,
    /// The row is of another format than the rows before it.
    MixedFormats,
    /// The file is of a kind that holds no rows.
    NotData,
    /// It is not JSON.
    InvalidJson,
    /// It is not CSV with a header.
    InvalidCsv,
    /// It is not Parquet, or damaged.
    InvalidParquet,
    /// It is not UTF-8.
    NotUtf8,
    /// It is longer than a row may be.
    TooLong,
    /// The chat template or the tokenizer refuses the row.
    TemplateRefused,
}

impl FaultClass {
    /// The name that messages and reports show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DataType => "data_type",
            Self::MissingMessagesList => "missing_messages_list",
            Self::MessageMissingKey => "message_missing_key",
            Self::MessageUnrecognizedKey => "message_unrecognized_key",
            Self::UnrecognizedRole => "unrecognized_role",
            Self::MissingContent => "missing_content",
            Self::ExampleMissingAssistantMessage => "example_missing_assistant_message",
            Self::InvalidWeight => "invalid_weight",
            Self::InvalidTools => "invalid_tools",
            Self::InvalidToolCalls => "invalid_tool_calls",
            Self::MissingColumn => "missing_column",
            Self::UnreadColumn => "unread_column",
            Self::UnrecognizedFormat => "unrecognized_format",
            Self::AmbiguousFormat => "ambiguous_format",
            Self::MixedFormats => "mixed_formats",
            Self::NotData => "not_data",
            Self::InvalidJson => "invalid_json",
            Self::InvalidCsv => "invalid_csv",
            Self::InvalidParquet => "invalid_parquet",
            Self::NotUtf8 => "not_utf8",
            Self::TooLong => "too_long",
            Self::TemplateRefused => "template_refused",
        }
    }
}

impl fmt::Display for FaultClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What is wrong with a row, before it is known where the row stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Problem {
    pub(super) class: FaultClass,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(class: FaultClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }
}

/// A place in a file as messages show it: `a.jsonl line 7`, `a.parquet row 7`, or the file alone where the number is 0.
pub fn place(file: &str, number: usize) -> String {
    match number {
        0 => file.to_owned(),
        number => format!("{file} {} {number}", unit(file)),
    }
}

/// A row that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1; in Parquet the row. 0 where the whole file is at fault.
    pub line: usize,
    /// What kind of fault it is.
    pub class: FaultClass,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}: {}: {}",
            place(&self.file, self.line),
            self.class,
            self.message
        )
    }
}

/// The rows of a file that have a fault in the same words as one before them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Alike {
    count: usize,
    /// Where the first of them stand.
    lines: Vec<usize>,
}

/// All that is wrong with the rows: the first [`SHOWN_FAULTS`], and how many there are of each class.
#[derive(Clone, Debug, Default, Eq, PartialEq, thiserror::Error)]
pub struct Faults {
    /// The first ones. What many rows of a file have in the same words is here once.
    pub first: Vec<Fault>,
    /// How many in all.
    pub count: usize,
    /// How many of each class.
    pub classes: BTreeMap<FaultClass, usize>,
    /// For each of the first, those in the same words.
    alike: Vec<Alike>,
}

impl Faults {
    /// Counts a fault, and keeps it where it is one of the first.
    pub fn add(&mut self, fault: Fault) {
        self.count += 1;
        *self.classes.entry(fault.class).or_default() += 1;
        let mut known = self.first.iter().zip(&mut self.alike);
        let same = known.find(|(known, _)| {
            known.class == fault.class && known.message == fault.message && known.file == fault.file
        });
        if let Some((known, alike)) = same {
            alike.count += 1;
            // Elements of one line stand in one place.
            let last = alike.lines.last().unwrap_or(&known.line);
            if *last != fault.line && alike.lines.len() < SHOWN_PLACES {
                alike.lines.push(fault.line);
            }
        } else if self.first.len() < SHOWN_FAULTS {
            self.first.push(fault);
            self.alike.push(Alike::default());
        }
    }
}

/// The others in the same words as `fault`, as they stand behind it.
fn others(fault: &Fault, alike: &Alike) -> String {
    if alike.count == 0 {
        return String::new();
    }
    let word = unit(&fault.file);
    let mut lines: Vec<String> = alike.lines.iter().map(usize::to_string).collect();
    if lines.is_empty() {
        return format!(" ({} more like it)", alike.count);
    }
    if lines.len() < alike.count {
        lines.push("…".to_owned());
    }
    let end = if lines.len() > 1 { "s" } else { "" };
    format!(
        " ({} more like it, {word}{end} {})",
        alike.count,
        lines.join(", ")
    )
}

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let ([fault], 1) = (self.first.as_slice(), self.count) {
            return write!(formatter, "{fault}");
        }
        write!(formatter, "{} rows are malformed (", self.count)?;
        let mut classes: Vec<_> = self.classes.iter().collect();
        classes.sort_by_key(|(class, count)| (std::cmp::Reverse(**count), **class));
        for (index, (class, count)) in classes.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(formatter, "{separator}{class} {count}")?;
        }
        write!(formatter, "): ")?;
        let mut shown = 0;
        for (index, (fault, alike)) in self.first.iter().zip(&self.alike).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{fault}{}", others(fault, alike))?;
            shown += 1 + alike.count;
        }
        if self.count > shown {
            write!(formatter, "\nand {} more", self.count - shown)?;
        }
        Ok(())
    }
}
