//! Parquet: the columns of a table, in groups of rows, as data sets on the Hugging Face Hub are stored.
//!
//! Of each row group the columns are decoded side by side, a page of each at a time, so that memory is bounded by the pages
//! and not by the file. Only columns that some form of rows has are read. A file is held against its size before the
//! decoder sees it (`limits`), and the levels of all columns are held against each other (`Columns`).

mod column;
mod limits;
mod schema;
mod thrift;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, FileReader, RowGroupReader, SerializedFileReader};
use parquet::file::statistics::Statistics;

use super::{Found, Take, foreign, too_long};
use crate::rows::MAX_LINE;
use crate::rows::fault::{FaultClass, Problem};
use crate::rows::json::{Json, Object};
use column::{Cursor, Place, guarded};
use schema::{Leaf, Node, Planner, Shape};

const MAGIC: &[u8] = b"PAR1";
const ENCRYPTED: &[u8] = b"PARE";
/// The length of the footer and the mark behind it.
const TAIL: u64 = 8;
/// What a row takes beside its columns, in bytes.
const ROW: u64 = 64;

/// Reads all rows. `wanted` says which columns are looked at. Rows are counted from 1; a fault of the whole file is at 0.
/// What comes behind damage cannot be told apart and is not read. Gives the columns that are not looked at and hold something.
pub(super) fn read<R: ChunkReader + 'static>(
    file: R,
    wanted: &dyn Fn(&str) -> bool,
    take: &mut Take<'_>,
) -> Vec<String> {
    let mut given = 0;
    let ended = Table::open(file, wanted).map_err(|problem| (0, problem));
    let ended = ended.and_then(|table| {
        table
            .rows(&mut given, take)
            .map_err(|problem| (given + 1, problem))?;
        Ok(table.plan.passed_over)
    });
    ended.unwrap_or_else(|(row, problem)| {
        take(row, Err(problem));
        Vec::new()
    })
}

/// A file of which the footer is read.
struct Table<R: ChunkReader + 'static> {
    file: Arc<R>,
    reader: SerializedFileReader<Shared<R>>,
    plan: Plan,
}

impl<R: ChunkReader + 'static> Table<R> {
    fn open(file: R, wanted: &dyn Fn(&str) -> bool) -> Result<Self, Problem> {
        check_ends(&file)?;
        let file = Arc::new(file);
        let shared = Shared(Arc::clone(&file));
        let reader = guarded("its footer", || SerializedFileReader::new(shared))?;
        Ok(Self {
            plan: Plan::new(&reader, wanted)?,
            file,
            reader,
        })
    }

    /// Gives all rows, and says in `given` how many.
    fn rows(&self, given: &mut usize, take: &mut Take<'_>) -> Result<(), Problem> {
        let mut allowance = limits::allowance(self.file.len());
        for (number, group) in self.reader.metadata().row_groups().iter().enumerate() {
            let rows = usize::try_from(group.num_rows())
                .map_err(|_| damaged("a row group has fewer than 0 rows".to_owned()))?;
            if self.plan.leaves.is_empty() && rows > 0 {
                // No column is looked at: what the first row lacks, all lack.
                take(*given + 1, Ok(Found::Record(self.plan.empty())));
                return Ok(());
            }
            for leaf in &self.plan.leaves {
                limits::check_pages(&*self.file, group.column(leaf.column))?;
            }
            let group = guarded("a row group", || self.reader.get_row_group(number))?;
            let mut columns = self.plan.open(group.as_ref())?;
            for _ in 0..rows {
                let record = columns.row(&self.plan.columns)?;
                allowance = allowance.checked_sub(columns.taken).ok_or_else(too_much)?;
                take(*given + 1, record.map(Found::Record));
                *given += 1;
            }
            columns.check_end()?;
        }
        Ok(())
    }
}

/// Looks at both ends of the file, and at the tree of columns in its footer.
fn check_ends(file: &impl ChunkReader) -> Result<(), Problem> {
    let bytes = |start, length| guarded("the file", || file.get_bytes(start, length));
    let length = file.len();
    let head = bytes(0, length.min(64) as usize)?;
    if length < TAIL + MAGIC.len() as u64 || !head.starts_with(MAGIC) {
        if head.starts_with(ENCRYPTED) {
            return Err(encrypted());
        }
        return Err(foreign::fault(None, &head).unwrap_or_else(|| {
            damaged("it does not begin with PAR1, expected a Parquet file".to_owned())
        }));
    }
    let tail = bytes(length - TAIL, TAIL as usize)?;
    if tail.ends_with(ENCRYPTED) {
        return Err(encrypted());
    }
    if !tail.ends_with(MAGIC) {
        return Err(damaged(
            "it does not end with PAR1: is the file cut off?".to_owned(),
        ));
    }
    let size = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if size > length - TAIL - MAGIC.len() as u64 {
        return Err(damaged(format!(
            "its footer claims {size} bytes, the file has {length}: is it cut off?"
        )));
    }
    let footer = bytes(length - TAIL - size, size as usize)?;
    limits::check_footer(&footer)
}

fn encrypted() -> Problem {
    damaged("it is encrypted: save it without encryption".to_owned())
}

fn too_much() -> Problem {
    damaged(
        "its rows take more than 1000 times the size of the file: it is damaged, or was made to use up memory".to_owned(),
    )
}

/// That the file is at fault.
fn damaged(message: String) -> Problem {
    Problem::new(FaultClass::InvalidParquet, message)
}

/// The columns of a file.
struct Plan {
    /// All of them in order; `None` where one is not looked at.
    columns: Vec<(String, Option<Node>)>,
    leaves: Vec<Leaf>,
    /// Those that are not looked at and hold something.
    passed_over: Vec<String>,
}

impl Plan {
    fn new(reader: &dyn FileReader, wanted: &dyn Fn(&str) -> bool) -> Result<Self, Problem> {
        let schema = reader.metadata().file_metadata().schema();
        let mut planner = Planner::default();
        let mut columns: Vec<(String, Option<Node>)> = Vec::new();
        let mut passed_over = Vec::new();
        for field in schema.get_fields() {
            let name = field.name();
            if columns.iter().any(|(known, _)| known == name) {
                return Err(damaged(format!("it has the column `{name}` twice")));
            }
            let node = if wanted(name) {
                Some(planner.column(field)?)
            } else {
                let leaves = planner.pass(field);
                if holds_something(reader.metadata(), leaves) {
                    passed_over.push(name.to_owned());
                }
                None
            };
            columns.push((name.to_owned(), node));
        }
        Ok(Self {
            columns,
            leaves: planner.leaves,
            passed_over,
        })
    }

    /// A row of which nothing is known.
    fn empty(&self) -> Object {
        let names = self.columns.iter().map(|(name, _)| name.clone());
        names.map(|name| (name, Json::Null)).collect()
    }

    fn open(&self, group: &dyn RowGroupReader) -> Result<Columns, Problem> {
        let cursors = self.leaves.iter().map(|leaf| {
            let highest = group
                .metadata()
                .column(leaf.column)
                .column_descr()
                .max_def_level();
            let reader = guarded(&leaf.path, || group.get_column_reader(leaf.column))?;
            Ok(Cursor::new(
                reader,
                leaf.kind.clone(),
                leaf.path.clone(),
                highest,
            ))
        });
        Ok(Columns {
            cursors: cursors.collect::<Result<_, Problem>>()?,
            taken: 0,
            problem: None,
        })
    }
}

/// Whether one of these leaves has a value in some row, as far as the counts in the footer tell.
fn holds_something(metadata: &ParquetMetaData, leaves: Range<usize>) -> bool {
    let mut chunks = metadata
        .row_groups()
        .iter()
        .flat_map(|group| group.columns().get(leaves.clone()).unwrap_or_default());
    chunks.any(|chunk| {
        let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
        // Lists that are empty count as null too.
        nulls.is_none_or(|nulls| i64::try_from(nulls) != Ok(chunk.num_values()))
    })
}

/// The leaves of a row group, all at the same row.
struct Columns {
    cursors: Vec<Cursor>,
    /// What the row takes, in bytes.
    taken: u64,
    /// What is wrong with the row, where its place is not: reading goes on behind it.
    problem: Option<Problem>,
}

impl Columns {
    /// The next row. The outer error is the file's.
    fn row(
        &mut self,
        columns: &[(String, Option<Node>)],
    ) -> Result<Result<Object, Problem>, Problem> {
        self.taken = ROW;
        let mut row = Object::with_capacity(columns.len());
        for (name, node) in columns {
            let value = match node {
                Some(node) => self.value(node, 0, 0)?,
                None => Json::Null,
            };
            row.insert(name.clone(), value);
        }
        if self.taken > MAX_LINE as u64 {
            return Ok(Err(too_long("the row")));
        }
        Ok(self.problem.take().map_or(Ok(row), Err))
    }

    /// The value of `node`, of which the entries begin with `repetition` and are there from the level `floor` on.
    fn value(&mut self, node: &Node, repetition: i16, floor: i16) -> Result<Json, Problem> {
        self.taken += 32;
        let place = self.place(node.first(), repetition)?;
        if place.definition < floor {
            return Err(disagree());
        }
        if place.definition < node.level {
            self.skip(node, place)?;
            return Ok(Json::Null);
        }
        match &node.shape {
            Shape::Leaf(leaf) => self.leaf(*leaf, place),
            Shape::Record(parts) => {
                let mut record = Object::with_capacity(parts.len());
                for (name, part) in parts {
                    // A struct has all its names in every row: one that is null is one that is not there.
                    match self.value(part, repetition, node.level)? {
                        Json::Null => {}
                        value => drop(record.insert(name.clone(), value)),
                    }
                }
                Ok(Json::Object(record))
            }
            Shape::List {
                element_level,
                repetition: next,
                element,
            } => {
                let mut list = Vec::new();
                if place.definition < *element_level {
                    self.skip(node, place)?;
                    return Ok(Json::List(list));
                }
                list.push(self.value(element, repetition, *element_level)?);
                while let Some(place) = self.cursors[element.first()].peek()?
                    && place.repetition == *next
                {
                    let value = self.value(element, *next, *element_level)?;
                    // A row that is too long is refused at its end; until then it takes no more memory.
                    if self.taken <= MAX_LINE as u64 {
                        list.push(value);
                    }
                }
                Ok(Json::List(list))
            }
        }
    }

    fn leaf(&mut self, leaf: usize, place: Place) -> Result<Json, Problem> {
        match self.cursors[leaf].take(place) {
            Ok(value) => {
                self.taken += value.as_text().map_or(0, str::len) as u64;
                Ok(value)
            }
            Err(problem) if problem.class == FaultClass::InvalidParquet => Err(problem),
            Err(problem) => {
                self.problem.get_or_insert(problem);
                Ok(Json::Null)
            }
        }
    }

    /// Passes over a node that is null or an empty list: each of its leaves has one entry for it, at the same place.
    fn skip(&mut self, node: &Node, place: Place) -> Result<(), Problem> {
        match &node.shape {
            Shape::Leaf(leaf) => {
                if self.place(*leaf, place.repetition)? != place {
                    return Err(disagree());
                }
                self.cursors[*leaf].take(place).map(drop)
            }
            Shape::Record(parts) => parts
                .iter()
                .try_for_each(|(_, part)| self.skip(part, place)),
            Shape::List { element, .. } => self.skip(element, place),
        }
    }

    /// The next entry of a leaf, which must begin with `repetition`.
    fn place(&mut self, leaf: usize, repetition: i16) -> Result<Place, Problem> {
        let place = self.cursors[leaf].peek()?;
        let place = place.ok_or_else(|| {
            damaged("a row group ends before the number of rows that it claims".to_owned())
        })?;
        match place.repetition == repetition {
            true => Ok(place),
            false => Err(disagree()),
        }
    }

    fn check_end(&mut self) -> Result<(), Problem> {
        for cursor in &mut self.cursors {
            if cursor.peek()?.is_some() {
                return Err(damaged(
                    "a row group goes on behind the number of rows that it claims".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

fn disagree() -> Problem {
    damaged("its columns do not agree on where rows and lists begin".to_owned())
}

/// A file that is looked at from two sides: by the decoder, and before it.
struct Shared<R>(Arc<R>);

impl<R: ChunkReader> parquet::file::reader::Length for Shared<R> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<R: ChunkReader> ChunkReader for Shared<R> {
    type T = R::T;

    fn get_read(&self, start: u64) -> parquet::errors::Result<R::T> {
        self.0.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.0.get_bytes(start, length)
    }
}

#[cfg(test)]
mod tests;
