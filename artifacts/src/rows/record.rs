//! A row as its file has it: named columns, looked up by the names that a format gives them.

use finetune_crds::fine_tune_job::Columns;

use super::RowFormat;
use super::fault::{FaultClass, Problem};
use super::json::{Json, Object};

/// The columns of a row, under the names that `dataset.columns` gives them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'row> {
    pub(super) columns: &'row Object,
    pub(super) names: &'row Columns,
}

impl<'row> Record<'row> {
    /// The name that the file has for a format's column.
    pub(super) fn name_of(&self, column: &'static str) -> &'row str {
        self.names.get(column).unwrap_or(column)
    }

    /// A column's value. Tables have `null` where there is nothing: it counts as absent.
    pub(super) fn get(&self, column: &'static str) -> Option<&'row Json> {
        self.columns
            .get(self.name_of(column))
            .filter(|value| **value != Json::Null)
    }

    /// Whether all columns that a format needs are there.
    pub(super) fn fits(&self, format: RowFormat) -> bool {
        format
            .required()
            .iter()
            .all(|name| self.get(name).is_some())
    }

    /// The text of a column that must be there.
    pub(super) fn text(&self, column: &'static str, format: RowFormat) -> Result<String, Problem> {
        let value = self
            .get(column)
            .ok_or_else(|| self.absent(column, format, FaultClass::MissingColumn))?;
        text(value, &format!("`{}`", self.name_of(column)))
    }

    /// The text of a column that may be absent: then it is empty.
    pub(super) fn optional_text(&self, column: &'static str) -> Result<String, Problem> {
        self.get(column).map_or(Ok(String::new()), |value| {
            text(value, &format!("`{}`", self.name_of(column)))
        })
    }

    /// A column's list. Tables hold lists as JSON in a text: that counts as the list.
    pub(super) fn list(&self, column: &'static str) -> Option<Result<Vec<Json>, Problem>> {
        let value = self.get(column)?;
        let wrong = |what: String| {
            let name = self.name_of(column);
            Problem::new(
                FaultClass::DataType,
                format!("`{name}` is {what}, expected a list of objects"),
            )
        };
        Some(match value {
            Json::List(list) => Ok(list.clone()),
            Json::Text(text) => serde_json::from_str(text)
                .map_err(|_| wrong("text, and no list as JSON".to_owned())),
            Json::Null | Json::Boolean(_) | Json::Number(_) | Json::Object(_) => {
                Err(wrong(value.kind().to_owned()))
            }
        })
    }

    /// That a column is absent.
    pub(super) fn absent(
        &self,
        column: &'static str,
        format: RowFormat,
        class: FaultClass,
    ) -> Problem {
        let name = self.name_of(column);
        let is = if self.columns.contains_key(name) {
            "null"
        } else {
            "absent"
        };
        Problem::new(
            class,
            format!(
                "column `{name}` is {is}, expected it in format {format}; the row has the columns {}",
                self.listed()
            ),
        )
    }

    /// The names of the columns, for messages.
    pub(super) fn listed(&self) -> String {
        if self.columns.is_empty() {
            return "(none)".to_owned();
        }
        let names: Vec<String> = self
            .columns
            .keys()
            .take(8)
            .map(|key| shortened(key))
            .collect();
        let more = if self.columns.len() > names.len() {
            ", …"
        } else {
            ""
        };
        format!("{}{more}", names.join(", "))
    }
}

/// A name out of the data, quoted, at most 40 characters of it.
pub(super) fn shortened(name: &str) -> String {
    let short: String = name.chars().take(40).collect();
    format!("`{}`", short.escape_debug())
}

/// The text that a value must be.
pub(super) fn text(value: &Json, name: &str) -> Result<String, Problem> {
    match value {
        Json::Text(text) => Ok(text.clone()),
        Json::List(_) => Err(Problem::new(
            FaultClass::DataType,
            format!(
                "{name} is a list, expected text; conversations go into `messages`, with text as content"
            ),
        )),
        Json::Null | Json::Boolean(_) | Json::Number(_) | Json::Object(_) => Err(Problem::new(
            FaultClass::DataType,
            format!("{name} is {}, expected text", value.kind()),
        )),
    }
}
