//! Rows of training data, out of files of several formats, in one of several forms.
//!
//! `files` takes a file apart into records of named columns; `formats` makes of a record what a row of its form holds.
//! Reading is strict and complete: every malformed row is counted, the first ones are shown with file and line, and no
//! row is dropped in silence. It must never guess what a row means.

mod content;
mod fault;
mod file_name;
mod files;
mod formats;
pub mod json;
mod quoted;
mod record;
mod row_format;

use std::fs::File;
use std::io::{self, BufRead};
use std::sync::Arc;

use finetune_crds::fine_tune_job::{Columns, Format};

pub use content::{Conversation, Message, Row, RowContent, TOOL_CALLS};
pub use fault::{Fault, FaultClass, Faults, SHOWN_FAULTS, place};
pub use formats::Unread;
pub use row_format::RowFormat;

use fault::Problem;
use files::{Found, Notes};
use json::Object;
use record::Record;

/// The longest line, row or document that is accepted, in bytes.
pub const MAX_LINE: usize = 100_000_000;

/// Rows and what was found out on the way.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The rows, in the order of files and lines.
    pub rows: Vec<Row>,
    /// Their form; `None` where there are no rows.
    pub format: Option<RowFormat>,
    /// Files that begin with a byte order mark, which was skipped.
    pub byte_order_marks: Vec<Arc<str>>,
    /// Files whose lines end in carriage return and line feed.
    pub carriage_returns: Vec<Arc<str>>,
    /// Columns that nothing reads.
    pub unread: Unread,
}

/// Reads files one after another. The form found in the first row holds for all.
#[derive(Debug)]
pub struct RowReader {
    columns: Columns,
    format: Option<Known>,
    rows: Vec<Row>,
    faults: Faults,
    byte_order_marks: Vec<Arc<str>>,
    carriage_returns: Vec<Arc<str>>,
    unread: Unread,
}

/// The form of the rows and who said so, for messages.
#[derive(Clone, Debug)]
struct Known {
    format: RowFormat,
    by: String,
}

impl RowReader {
    /// A reader for rows of the form `format`.
    pub fn new(format: Format) -> Self {
        Self::of_format(RowFormat::wanted(format), "as dataset.format says")
    }

    /// A reader for rows of a form that is known already, `by` says from where; `None` reads it off the first row.
    pub fn of_format(format: Option<RowFormat>, by: &str) -> Self {
        Self {
            columns: Columns::default(),
            format: format.map(|format| Known {
                format,
                by: by.to_owned(),
            }),
            rows: Vec::new(),
            faults: Faults::default(),
            byte_order_marks: Vec::new(),
            carriage_returns: Vec::new(),
            unread: Unread::default(),
        }
    }

    /// The reader, with names of columns that the files have in place of the form's own.
    #[must_use]
    pub fn with_columns(mut self, columns: &Columns) -> Self {
        self.columns = columns.clone();
        self
    }

    /// Reads all rows of one file, by the format that its name ends in: `.json`, `.csv`, `.parquet`, `.txt`, `.md`. One that by
    /// its name or its first bytes is no data is a fault; any other one holds JSON objects, one a line. Blank lines, a byte order mark at the start and carriage returns at the ends of
    /// lines are no rows and no faults.
    ///
    /// Errors only where the source itself fails; faults of rows are kept for [`Self::finish`].
    pub fn read(&mut self, file: &str, source: impl BufRead) -> io::Result<()> {
        let wanted = self.wanted();
        let file: Arc<str> = file.into();
        let before = self.rows.len();
        let notes = files::read(&file, source, &wanted, &mut |line, found| {
            self.take(&file, line, found);
        })?;
        self.note(&file, notes, self.rows.len() - before);
        Ok(())
    }

    /// As [`Self::read`], of a file on this machine: Parquet is read in parts.
    pub fn read_file(&mut self, name: &str, source: File) -> io::Result<()> {
        let wanted = self.wanted();
        let file: Arc<str> = name.into();
        let before = self.rows.len();
        let notes = files::read_file(&file, source, &wanted, &mut |row, found| {
            self.take(&file, row, found);
        })?;
        self.note(&file, notes, self.rows.len() - before);
        Ok(())
    }

    /// The columns that some form of rows has, by the names of the files, and those that are refused beside them.
    fn wanted(&self) -> impl Fn(&str) -> bool + use<> {
        let columns = self.columns.clone();
        move |name| {
            formats::is_said(name)
                || RowFormat::ALL
                    .into_iter()
                    .any(|format| format.reads(name, &columns))
        }
    }

    /// Keeps what is odd about a file of so many rows.
    fn note(&mut self, file: &Arc<str>, notes: Notes, rows: usize) {
        if notes.byte_order_mark {
            self.byte_order_marks.push(Arc::clone(file));
        }
        if notes.carriage_returns {
            self.carriage_returns.push(Arc::clone(file));
        }
        if let Some(known) = &self.format
            && let Err(problem) = self
                .unread
                .check_file(&notes.passed_over, rows, known.format)
        {
            self.fault(file, 0, problem);
        }
    }

    /// The rows, or everything that is wrong with them.
    pub fn finish(self) -> Result<Rows, Faults> {
        if self.faults.count > 0 {
            return Err(self.faults);
        }
        Ok(Rows {
            rows: self.rows,
            format: self.format.map(|known| known.format),
            byte_order_marks: self.byte_order_marks,
            carriage_returns: self.carriage_returns,
            unread: self.unread,
        })
    }

    fn take(&mut self, file: &Arc<str>, line: usize, found: Result<Found, Problem>) {
        let place = || format!("as {} has it", place(file, line));
        let content = found.and_then(|found| match found {
            Found::Record(columns) => self.record(&columns, place),
            Found::Document(text) => self.document(text, place),
        });
        match content {
            Ok(content) => self.rows.push(Row {
                file: Arc::clone(file),
                line,
                content,
            }),
            Err(problem) => self.fault(file, line, problem),
        }
    }

    fn fault(&mut self, file: &Arc<str>, line: usize, problem: Problem) {
        self.faults.add(Fault {
            file: Arc::clone(file),
            line,
            class: problem.class,
            message: problem.message,
        });
    }

    fn record(
        &mut self,
        columns: &Object,
        place: impl Fn() -> String,
    ) -> Result<RowContent, Problem> {
        let record = Record {
            columns,
            names: &self.columns,
        };
        let format = match &self.format {
            None => {
                let format = formats::detect(&record)?;
                let by = place();
                self.format = Some(Known { format, by });
                format
            }
            Some(known) => {
                if !record.fits(known.format)
                    && let Ok(other) = formats::detect(&record)
                {
                    return Err(mixed(other, known));
                }
                known.format
            }
        };
        let content = format.parse(&record)?;
        self.unread.check(columns, &self.columns, format)?;
        Ok(content)
    }

    fn document(
        &mut self,
        text: String,
        place: impl Fn() -> String,
    ) -> Result<RowContent, Problem> {
        let known = self.format.get_or_insert_with(|| Known {
            format: RowFormat::Text,
            by: place(),
        });
        if known.format != RowFormat::Text {
            return Err(mixed(RowFormat::Text, known));
        }
        Ok(RowContent::Document(text))
    }
}

fn mixed(found: RowFormat, known: &Known) -> Problem {
    Problem::new(
        FaultClass::MixedFormats,
        format!(
            "the row is {found}, expected {}, {}: keep rows of one format in a data set",
            known.format, known.by
        ),
    )
}

#[cfg(test)]
mod tests;
