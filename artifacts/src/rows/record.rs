//! A row as its file has it: named columns, looked up by the names that a format gives them.

use finetune_crds::fine_tune_job::Columns;

use super::fault::{FaultClass, Problem};
use super::json::{Json, Object, UniqueKeys, reason};
use super::quoted::{listed, shortened};
use super::row_format::RowFormat;

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

    /// The value of a column that may be absent. An empty one is, because CSV has nothing else for it.
    pub(super) fn optional(&self, column: &'static str) -> Option<&'row Json> {
        self.get(column).filter(|value| !value.says_nothing())
    }

    /// Whether all columns that a format needs are there.
    pub(super) fn fits(&self, format: RowFormat) -> bool {
        format
            .required()
            .iter()
            .all(|name| self.get(name).is_some())
    }

    /// The same, and no column of conversations is empty: a table that holds rows of two formats leaves those of the other one
    /// empty.
    pub(super) fn says(&self, format: RowFormat) -> bool {
        let lists = ["messages", "conversations"];
        let empty = |name: &&'static str| lists.contains(name) && self.optional(name).is_none();
        self.fits(format) && !format.required().iter().any(empty)
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
        self.optional(column).map_or(Ok(String::new()), |value| {
            text(value, &format!("`{}`", self.name_of(column)))
        })
    }

    /// A column's list, of what `of` says. Tables hold lists as JSON in a text: that counts as the list, and an empty text as an
    /// empty one.
    pub(super) fn list(
        &self,
        column: &'static str,
        of: &str,
    ) -> Option<Result<Vec<Json>, Problem>> {
        let value = self.get(column)?;
        let wrong = |what: String| {
            let name = self.name_of(column);
            Problem::new(
                FaultClass::DataType,
                format!("`{name}` is {what}, expected a list of {of}"),
            )
        };
        Some(match value {
            Json::List(list) => Ok(list.clone()),
            Json::Text(text) if text.trim().is_empty() => Ok(Vec::new()),
            Json::Text(text) => match serde_json::from_str(text) {
                Ok(UniqueKeys(Json::List(list))) => Ok(list),
                Ok(UniqueKeys(Json::Null)) => Ok(Vec::new()),
                Ok(UniqueKeys(other)) => {
                    Err(wrong(format!("text that holds {} as JSON", other.kind())))
                }
                Err(error) if error.is_data() => {
                    Err(wrong(format!("JSON in which {}", reason(&error))))
                }
                Err(_) => Err(wrong("text, and no list as JSON".to_owned())),
            },
            Json::Object(object) if object.is_empty() => Ok(Vec::new()),
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
        if let Some(message) = self.misnamed(|named| named == column) {
            return Problem::new(class, message);
        }
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

    /// What is said of those columns named in `dataset.columns`, of all that are `wanted`, which the row does not have; `None`
    /// where it has them. A null one is there.
    pub(super) fn misnamed(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let missing: Vec<String> = self
            .names
            .named()
            .filter(|(column, name)| wanted(column) && !self.columns.contains_key(*name))
            .map(|(column, name)| format!("`dataset.columns.{column}` is {}", shortened(name)))
            .collect();
        (!missing.is_empty()).then(|| {
            format!(
                "{}, which the row does not have; the row has the columns {}: set it to one of these",
                missing.join(" and "),
                self.listed()
            )
        })
    }

    /// The names of the columns, for messages.
    pub(super) fn listed(&self) -> String {
        if self.columns.is_empty() {
            return "(none)".to_owned();
        }
        listed(self.columns.keys())
    }
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
