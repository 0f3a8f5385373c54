//! The names of the forms that rows have, and the columns that make each.

use std::fmt;

use finetune_crds::fine_tune_job::{Columns, Format};

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
}

impl fmt::Display for RowFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
