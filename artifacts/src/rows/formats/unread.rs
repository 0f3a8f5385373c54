//! Columns beside those of a format: nothing is said or learnt of them. One that other tools put into the conversation is
//! refused, because without it another thing would be learnt; all others are told of by name, once for all rows.

use std::collections::BTreeMap;

use finetune_crds::fine_tune_job::Columns;

use crate::rows::fault::{FaultClass, Problem};
use crate::rows::json::Object;
use crate::rows::quoted::{listed, shortened};
use crate::rows::row_format::RowFormat;

/// How many names are kept.
const NAMES: usize = 1000;

/// Columns that say something in other tools, and what to do.
const SAID: [(&str, &str); 8] = [
    ("system", SYSTEM),
    ("system_prompt", SYSTEM),
    ("history", "write its turns into `messages`"),
    ("tools", TOOLS),
    ("functions", TOOLS),
    ("function_call", "write it as `tool_calls` into `messages`"),
    ("documents", "write them into a message"),
    (
        "chat_template_kwargs",
        "set what it asks for in the base's chat template",
    ),
];
const SYSTEM: &str = "write it as a message of the role system into `messages`, or name it in dataset.columns as `system` of \
                      format Alpaca or ShareGPT";
const TOOLS: &str = "write the row as `messages` and `tools`";

/// Columns of what is no text.
const MEDIA: [&str; 6] = ["image", "images", "video", "videos", "audio", "audios"];

/// Whether a column of this name, beside those of the format, changes what is said.
pub(in crate::rows) fn is_said(name: &str) -> bool {
    SAID.iter().any(|(said, _)| *said == name)
}

/// The fault of a column of this name that no format of the row reads, where it changes what is said.
fn refusal(name: &str, format: RowFormat) -> Option<Problem> {
    let cure = match SAID.iter().find(|(said, _)| *said == name) {
        Some((_, cure)) => cure,
        None if MEDIA.contains(&name) => "models are trained on text alone",
        None => return None,
    };
    Some(Problem::new(
        FaultClass::UnreadColumn,
        format!(
            "the row has the column {}, which nothing reads in format {format}: {cure}, or remove it",
            shortened(name)
        ),
    ))
}

/// The columns that nothing reads, and in how many rows they say something.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unread {
    columns: BTreeMap<String, usize>,
    /// Whether there are more names than are kept.
    more: bool,
}

impl Unread {
    /// Counts the columns of a row that nothing reads, or refuses the row for one of them.
    pub(in crate::rows) fn check(
        &mut self,
        columns: &Object,
        names: &Columns,
        format: RowFormat,
    ) -> Result<(), Problem> {
        let unread = |name: &str| !format.reads(name, names);
        for (name, value) in columns {
            if value.says_nothing() || !unread(name) {
                continue;
            }
            match refusal(name, format) {
                Some(problem) => return Err(problem),
                None => self.count(name, 1),
            }
        }
        Ok(())
    }

    /// Counts columns of a file whose values were not looked at, or refuses the file for one of them.
    pub(in crate::rows) fn check_file(
        &mut self,
        columns: &[String],
        rows: usize,
        format: RowFormat,
    ) -> Result<(), Problem> {
        for name in columns {
            match refusal(name, format) {
                Some(problem) => return Err(problem),
                None => self.count(name, rows),
            }
        }
        Ok(())
    }

    fn count(&mut self, name: &str, rows: usize) {
        if let Some(count) = self.columns.get_mut(name) {
            *count += rows;
        } else if self.columns.len() < NAMES {
            self.columns.insert(name.to_owned(), rows);
        } else {
            self.more = true;
        }
    }

    /// Adds what was found in other files.
    pub fn add(&mut self, other: &Self) {
        for (name, rows) in &other.columns {
            self.count(name, *rows);
        }
        self.more |= other.more;
    }

    /// What deserves a look, in words; `None` where everything is read.
    pub fn warning(&self) -> Option<String> {
        let most = self.columns.values().max()?;
        let columns = match self.columns.len() {
            1 => "column",
            _ => "columns",
        };
        let more = if self.more { " and others" } else { "" };
        Some(format!(
            "nothing reads the {columns} {}{more}, which up to {most} rows have",
            listed(self.columns.keys())
        ))
    }
}
