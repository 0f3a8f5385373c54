//! Rows of training data: JSONL, one object a line, in one of three forms.
//!
//! Reading is strict and complete: every malformed row is counted, the first ones are shown with file and line, and no
//! row is dropped in silence. It must never guess what a row means.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use finetune_crds::fine_tune_job::Format;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The longest line that is accepted, in bytes.
pub const MAX_LINE: usize = 100_000_000;
/// How many faults are shown.
pub const SHOWN_FAULTS: usize = 20;

/// The form of the rows, once known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RowFormat {
    /// `{"messages": [{"role": …, "content": …}, …]}`.
    Messages,
    /// `{"prompt": …, "completion": …}`.
    PromptCompletion,
    /// `{"text": …}`.
    Text,
}

impl RowFormat {
    /// The columns that make the form.
    const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Messages => &["messages"],
            Self::PromptCompletion => &["prompt", "completion"],
            Self::Text => &["text"],
        }
    }

    /// The name, as the manifest has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages => "Messages",
            Self::PromptCompletion => "PromptCompletion",
            Self::Text => "Text",
        }
    }
}

impl fmt::Display for RowFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or another one that the chat template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// What a row holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RowContent {
    /// A conversation of one or more turns.
    Messages(Vec<Message>),
    /// A text and how it goes on.
    PromptCompletion {
        /// What is given.
        prompt: String,
        /// What is learnt.
        completion: String,
    },
    /// Plain text.
    Text(String),
}

impl RowContent {
    /// A hash of the content alone: equal for equal rows, wherever they stand and however their JSON is written.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let mut add = |part: &str| {
            // The length goes first, so that no two lists of parts run together to the same bytes.
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        match self {
            Self::Messages(messages) => {
                add("messages");
                for message in messages {
                    add(&message.role);
                    add(&message.content);
                }
            }
            Self::PromptCompletion { prompt, completion } => {
                add("prompt");
                add(prompt);
                add(completion);
            }
            Self::Text(text) => {
                add("text");
                add(text);
            }
        }
        hasher.finalize().into()
    }
}

/// A row and where it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// What it holds.
    pub content: RowContent,
}

/// A row that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} line {}: {}",
            self.file, self.line, self.message
        )
    }
}

/// All that is wrong with the rows: the first [`SHOWN_FAULTS`], and how many there are.
#[derive(Clone, Debug, Default, Eq, PartialEq, thiserror::Error)]
pub struct Faults {
    /// The first ones.
    pub first: Vec<Fault>,
    /// How many in all.
    pub count: usize,
}

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let ([fault], 1) = (self.first.as_slice(), self.count) {
            return write!(formatter, "{fault}");
        }
        write!(formatter, "{} rows are malformed: ", self.count)?;
        for (index, fault) in self.first.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{fault}")?;
        }
        if self.count > self.first.len() {
            write!(formatter, "\nand {} more", self.count - self.first.len())?;
        }
        Ok(())
    }
}

/// Rows and what was found out on the way.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The rows, in the order of files and lines.
    pub rows: Vec<Row>,
    /// Their form; `None` where there are no rows.
    pub format: Option<RowFormat>,
}

/// Reads files one after another. The form found in the first row holds for all.
#[derive(Debug)]
pub struct RowReader {
    format: Option<RowFormat>,
    rows: Vec<Row>,
    faults: Faults,
}

impl RowReader {
    /// A reader for rows of the form `format`.
    pub fn new(format: Format) -> Self {
        let format = match format {
            Format::Auto => None,
            Format::Messages => Some(RowFormat::Messages),
            Format::PromptCompletion => Some(RowFormat::PromptCompletion),
            Format::Text => Some(RowFormat::Text),
        };
        Self::of_format(format)
    }

    /// A reader for rows of a form that is known already; `None` reads it off the first row.
    pub fn of_format(format: Option<RowFormat>) -> Self {
        Self {
            format,
            rows: Vec::new(),
            faults: Faults::default(),
        }
    }

    /// Reads all rows of one file. Blank lines, a byte order mark at the start and carriage returns at the ends of lines
    /// are no rows and no faults.
    ///
    /// Errors only where the source itself fails; faults of rows are kept for [`Self::finish`].
    pub fn read(&mut self, file: &str, mut source: impl BufRead) -> io::Result<()> {
        let file: Arc<str> = file.into();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            // One byte more than allowed tells a line that is too long from one that just fits.
            let read = source
                .by_ref()
                .take(MAX_LINE as u64 + 1)
                .read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            if read > MAX_LINE {
                skip_line(&mut source)?;
                let message = format!("the line is longer than {MAX_LINE} bytes: split the row");
                self.fault(&file, number, message);
                continue;
            }
            let mut bytes = line.as_slice();
            if number == 1 {
                bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            }
            self.line(&file, number, bytes.trim_ascii());
        }
        Ok(())
    }

    /// The rows, or everything that is wrong with them.
    pub fn finish(self) -> Result<Rows, Faults> {
        if self.faults.count > 0 {
            return Err(self.faults);
        }
        Ok(Rows {
            rows: self.rows,
            format: self.format,
        })
    }

    fn line(&mut self, file: &Arc<str>, number: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match self.parse(bytes) {
            Ok(content) => self.rows.push(Row {
                file: Arc::clone(file),
                line: number,
                content,
            }),
            Err(message) => self.fault(file, number, message),
        }
    }

    fn parse(&mut self, bytes: &[u8]) -> Result<RowContent, String> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| format!("it is not UTF-8 at byte {}", error.valid_up_to() + 1))?;
        let row: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
            // Its own line number counts within the row, which is one line.
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            format!(
                "not a JSON object: {reason} at column {}, expected one object a line",
                error.column()
            )
        })?;
        let format = match self.format {
            Some(format) => format,
            None => *self.format.insert(detect(&row)?),
        };
        content(format, &row)
    }

    fn fault(&mut self, file: &Arc<str>, line: usize, message: String) {
        self.faults.count += 1;
        if self.faults.first.len() < SHOWN_FAULTS {
            self.faults.first.push(Fault {
                file: Arc::clone(file),
                line,
                message,
            });
        }
    }
}

/// Reads to the end of the line without keeping it.
fn skip_line(source: &mut impl BufRead) -> io::Result<()> {
    loop {
        let available = source.fill_buf()?;
        if available.is_empty() {
            return Ok(());
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(available.len(), |end| end + 1);
        source.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

/// The form of a row by its columns.
fn detect(row: &Map<String, Value>) -> Result<RowFormat, String> {
    let all = [
        RowFormat::Messages,
        RowFormat::PromptCompletion,
        RowFormat::Text,
    ];
    let fits = |format: &RowFormat| format.columns().iter().all(|c| row.contains_key(*c));
    let mut found = all.into_iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(format), None) => Ok(format),
        (Some(one), Some(other)) => Err(format!(
            "the row has the columns of {one} and of {other}: set dataset.format to the one that is meant"
        )),
        (None, _) => Err(format!(
            "the row has the columns {}, expected `messages`, or `prompt` and `completion`, or `text`",
            listed(row)
        )),
    }
}

fn content(format: RowFormat, row: &Map<String, Value>) -> Result<RowContent, String> {
    match format {
        RowFormat::Messages => {
            if row.get("tools").is_some_and(|tools| !tools.is_null()) {
                return Err("column `tools` is set, which is not supported: remove it".to_owned());
            }
            messages(column(row, format, "messages")?).map(RowContent::Messages)
        }
        RowFormat::PromptCompletion => Ok(RowContent::PromptCompletion {
            prompt: text(column(row, format, "prompt")?, "`prompt`")?,
            completion: text(column(row, format, "completion")?, "`completion`")?,
        }),
        RowFormat::Text => Ok(RowContent::Text(text(
            column(row, format, "text")?,
            "`text`",
        )?)),
    }
}

fn column<'row>(
    row: &'row Map<String, Value>,
    format: RowFormat,
    name: &str,
) -> Result<&'row Value, String> {
    row.get(name).ok_or_else(|| {
        format!(
            "column `{name}` is absent, expected it in format {format}; the row has the columns {}",
            listed(row)
        )
    })
}

fn listed(row: &Map<String, Value>) -> String {
    if row.is_empty() {
        return "(none)".to_owned();
    }
    let names: Vec<String> = row.keys().take(8).map(|key| shortened(key)).collect();
    let more = if row.len() > names.len() { ", …" } else { "" };
    format!("{}{more}", names.join(", "))
}

/// A name out of the data, quoted, at most 40 characters of it.
fn shortened(name: &str) -> String {
    let short: String = name.chars().take(40).collect();
    format!("`{}`", short.escape_debug())
}

fn text(value: &Value, name: &str) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(_) => Err(format!(
            "{name} is a list, expected text; conversations go into `messages`, with text as content"
        )),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Err(format!("{name} is {}, expected text", kind(value)))
        }
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn messages(value: &Value) -> Result<Vec<Message>, String> {
    let Value::Array(list) = value else {
        return Err(format!(
            "`messages` is {}, expected a list of objects with `role` and `content`",
            kind(value)
        ));
    };
    if list.is_empty() {
        return Err("`messages` is empty, expected at least one message".to_owned());
    }
    list.iter()
        .enumerate()
        .map(|(index, value)| message(index, value))
        .collect()
}

fn message(index: usize, value: &Value) -> Result<Message, String> {
    let name = format!("`messages[{index}]`");
    let Value::Object(fields) = value else {
        return Err(format!("{name} is {}, expected an object", kind(value)));
    };
    // A field that changes what is said or learnt (tool calls, a weight of 0) must not be passed over.
    let extra = fields
        .iter()
        .find(|(key, value)| !matches!(key.as_str(), "role" | "content") && !value.is_null());
    if let Some((key, _)) = extra {
        return Err(format!(
            "{name} has the field {}, expected `role` and `content` alone: remove it",
            shortened(key)
        ));
    }
    let field = |key: &str| {
        let value = fields
            .get(key)
            .ok_or_else(|| format!("{name} has no `{key}`"))?;
        text(value, &format!("`messages[{index}].{key}`"))
    };
    let role = field("role")?;
    if role.is_empty() {
        return Err(format!(
            "`messages[{index}].role` is empty, expected system, user or assistant"
        ));
    }
    Ok(Message {
        role,
        content: field("content")?,
    })
}

#[cfg(test)]
mod tests;
