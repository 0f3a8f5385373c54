//! One leaf of a row group, value by value, with the levels that say where each stands.

use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::Result as ParquetResult;
use serde_json::Number;

use super::damaged;
use super::schema::Kind;
use crate::rows::fault::{FaultClass, Problem};
use crate::rows::files::utf8;
use crate::rows::json::Json;

/// How many rows are decoded at a time.
const BATCH: usize = 256;

/// A place in a leaf.
pub(super) struct Cursor {
    column: Box<dyn Column>,
    kind: Kind,
    path: String,
    batch: Levels,
    /// The next entry of the batch.
    at: usize,
    /// The next value of the batch: null entries have none.
    value: usize,
    highest: i16,
    ended: bool,
}

/// The levels of a batch; empty where the file needs none, since they would all be the same.
#[derive(Default)]
struct Levels {
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    /// How many entries there are.
    entries: usize,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) definition: i16,
    pub(super) repetition: i16,
}

impl Cursor {
    pub(super) fn new(reader: ColumnReader, kind: Kind, path: String, highest: i16) -> Self {
        Self {
            column: boxed(reader),
            kind,
            path,
            batch: Levels::default(),
            at: 0,
            value: 0,
            highest,
            ended: false,
        }
    }

    /// Where the next entry stands; `None` behind the last one.
    pub(super) fn peek(&mut self) -> Result<Option<Place>, Problem> {
        if self.at == self.batch.entries && !self.ended {
            self.batch.definitions.clear();
            self.batch.repetitions.clear();
            self.batch.entries = 0;
            (self.at, self.value) = (0, 0);
            let (column, batch) = (&mut self.column, &mut self.batch);
            self.ended = !guarded(&self.path, || column.fill(batch))?;
        }
        if self.at == self.batch.entries {
            return Ok(None);
        }
        let level = |levels: &[i16], constant| levels.get(self.at).copied().unwrap_or(constant);
        Ok(Some(Place {
            definition: level(&self.batch.definitions, self.highest),
            repetition: level(&self.batch.repetitions, 0),
        }))
    }

    /// Goes on to the next entry. Of a value that JSON has no form for, the inner problem tells.
    pub(super) fn take(&mut self, place: Place) -> Result<Json, Problem> {
        self.at += 1;
        if place.definition < self.highest {
            return Ok(Json::Null);
        }
        let value = self.value;
        self.value += 1;
        self.column.json(value, &self.kind).map_err(|problem| {
            let Problem { class, message } = problem;
            Problem::new(class, format!("column `{}`: {message}", self.path))
        })
    }
}

/// Runs what decodes bytes of a file. The library answers damage with an error nearly always; where it panics instead, the
/// file is as damaged.
pub(super) fn guarded<T>(
    what: &str,
    work: impl FnOnce() -> ParquetResult<T>,
) -> Result<T, Problem> {
    let fault = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "its bytes contradict each other".to_owned(),
    };
    Err(damaged(format!("`{what}` cannot be read: {fault}")))
}

/// The column reader of one type of values.
trait Column {
    /// Decodes the next rows; false where there are none.
    fn fill(&mut self, levels: &mut Levels) -> ParquetResult<bool>;
    /// A value of the batch.
    fn json(&self, value: usize, kind: &Kind) -> Result<Json, Problem>;
}

struct Typed<T: DataType> {
    reader: ColumnReaderImpl<T>,
    values: Vec<T::T>,
    json: fn(&T::T, &Kind) -> Result<Json, Problem>,
}

impl<T: DataType> Column for Typed<T> {
    fn fill(&mut self, levels: &mut Levels) -> ParquetResult<bool> {
        self.values.clear();
        let (rows, values, entries) = self.reader.read_records(
            BATCH,
            Some(&mut levels.definitions),
            Some(&mut levels.repetitions),
            &mut self.values,
        )?;
        levels.entries = entries.max(values);
        Ok(rows > 0 && levels.entries > 0)
    }

    fn json(&self, value: usize, kind: &Kind) -> Result<Json, Problem> {
        match self.values.get(value) {
            Some(value) => (self.json)(value, kind),
            None => Err(damaged(
                "it has fewer values than its levels say".to_owned(),
            )),
        }
    }
}

fn boxed(reader: ColumnReader) -> Box<dyn Column> {
    fn typed<T: DataType>(
        reader: ColumnReaderImpl<T>,
        json: fn(&T::T, &Kind) -> Result<Json, Problem>,
    ) -> Box<dyn Column> {
        Box::new(Typed {
            reader,
            values: Vec::new(),
            json,
        })
    }
    match reader {
        ColumnReader::BoolColumnReader(reader) => {
            typed(reader, |value, _| Ok(Json::Boolean(*value)))
        }
        ColumnReader::Int32ColumnReader(reader) => typed(reader, |value, kind| match kind {
            Kind::Unsigned => Ok(Json::Number((*value as u32).into())),
            Kind::Other(name) => Err(no_json(name)),
            _ => Ok(Json::Number((*value).into())),
        }),
        ColumnReader::Int64ColumnReader(reader) => typed(reader, |value, kind| match kind {
            Kind::Unsigned => Ok(Json::Number((*value as u64).into())),
            Kind::Other(name) => Err(no_json(name)),
            _ => Ok(Json::Number((*value).into())),
        }),
        ColumnReader::Int96ColumnReader(reader) => {
            typed(reader, |_, _| Err(no_json("a time of 96 bits")))
        }
        ColumnReader::FloatColumnReader(reader) => {
            typed(reader, |value, _| Ok(number(f64::from(*value))))
        }
        ColumnReader::DoubleColumnReader(reader) => typed(reader, |value, _| Ok(number(*value))),
        ColumnReader::ByteArrayColumnReader(reader) => typed(reader, text),
        ColumnReader::FixedLenByteArrayColumnReader(reader) => {
            typed(reader, |_, kind| match kind {
                Kind::Other(name) => Err(no_json(name)),
                _ => Err(no_json("bytes of a fixed length")),
            })
        }
    }
}

fn text(value: &ByteArray, kind: &Kind) -> Result<Json, Problem> {
    match kind {
        Kind::Text => utf8(value.data()).map(|text| Json::Text(text.to_owned())),
        Kind::Other(name) => Err(no_json(name)),
        _ => Err(no_json("bytes")),
    }
}

/// A number as JSON has it: what is not finite is null, as pandas and Python's data sets write it.
fn number(value: f64) -> Json {
    Number::from_f64(value).map_or(Json::Null, Json::Number)
}

fn no_json(name: &str) -> Problem {
    Problem::new(
        FaultClass::DataType,
        format!(
            "it holds {}, expected text, numbers, booleans, lists or structs: cast it to text",
            name.to_lowercase()
        ),
    )
}
