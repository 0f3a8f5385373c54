//! The columns of a Parquet file as a tree: what lies in what, and the levels that say where values are absent or repeat.
//!
//! The levels are those of Dremel (Melnik et al., 2010): a value's definition level counts the optional and repeated nodes
//! above it that are there, its repetition level tells at which list a new element begins.

use std::ops::Range;

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::schema::types::Type;

use super::damaged;
use crate::rows::fault::Problem;

/// A column or a part of one.
#[derive(Debug)]
pub(super) struct Node {
    /// The definition level from which on it is not null.
    pub(super) level: i16,
    pub(super) shape: Shape,
}

/// What a node holds.
#[derive(Debug)]
pub(super) enum Shape {
    /// Values: those of one leaf of the file, by its number among those that are read.
    Leaf(usize),
    /// Named parts.
    Record(Vec<(String, Node)>),
    /// Elements in order.
    List {
        /// The definition level from which on there is an element.
        element_level: i16,
        /// The repetition level of every element but the first.
        repetition: i16,
        element: Box<Node>,
    },
}

/// How a leaf's values become JSON.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Text,
    Boolean,
    Integer,
    Unsigned,
    Float,
    /// What JSON has no form for that means the same to everyone: its name.
    Other(String),
}

/// A leaf that is read.
#[derive(Debug)]
pub(super) struct Leaf {
    /// Its number in the file.
    pub(super) column: usize,
    /// Its name with those above it.
    pub(super) path: String,
    pub(super) kind: Kind,
}

/// Makes the tree.
#[derive(Debug, Default)]
pub(super) struct Planner {
    /// The leaves that are read, in the order of the file.
    pub(super) leaves: Vec<Leaf>,
    /// The leaves passed so far.
    column: usize,
    path: Vec<String>,
}

impl Planner {
    /// A column that is read.
    pub(super) fn column(&mut self, field: &Type) -> Result<Node, Problem> {
        self.node(field, 0, 0)
    }

    /// A column that is not read; gives its leaves in the file.
    pub(super) fn pass(&mut self, field: &Type) -> Range<usize> {
        let start = self.column;
        self.column += leaves(field);
        start..self.column
    }

    fn node(&mut self, field: &Type, level: i16, repetition: i16) -> Result<Node, Problem> {
        match field.get_basic_info().repetition() {
            Repetition::REQUIRED => self.present(field, level, repetition),
            Repetition::OPTIONAL => self.present(field, level + 1, repetition),
            // A repeated field that no list holds is a list itself.
            Repetition::REPEATED => Ok(Node {
                level,
                shape: Shape::List {
                    element_level: level + 1,
                    repetition: repetition + 1,
                    element: Box::new(self.present(field, level + 1, repetition + 1)?),
                },
            }),
        }
    }

    /// The node of a field that is not null from `level` on.
    fn present(&mut self, field: &Type, level: i16, repetition: i16) -> Result<Node, Problem> {
        self.path.push(field.name().to_owned());
        let shape = if field.is_primitive() {
            self.leaves.push(Leaf {
                column: self.column,
                path: self.path.join("."),
                kind: kind(field),
            });
            self.column += 1;
            Shape::Leaf(self.leaves.len() - 1)
        } else if is_list(field) {
            self.list(field, level, repetition)?
        } else {
            Shape::Record(self.parts(field, level, repetition)?)
        };
        self.path.pop();
        Ok(Node { level, shape })
    }

    fn parts(
        &mut self,
        field: &Type,
        level: i16,
        repetition: i16,
    ) -> Result<Vec<(String, Node)>, Problem> {
        let path = self.path.join(".");
        let converted = field.get_basic_info().converted_type();
        if matches!(converted, ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE) {
            return Err(damaged(format!(
                "column `{path}` is a map, expected texts, numbers, booleans, lists and structs: save it as one of them"
            )));
        }
        let mut parts: Vec<(String, Node)> = Vec::new();
        for part in field.get_fields() {
            if parts.iter().any(|(name, _)| name == part.name()) {
                return Err(damaged(format!(
                    "column `{path}` has `{}` twice",
                    part.name()
                )));
            }
            parts.push((part.name().to_owned(), self.node(part, level, repetition)?));
        }
        if parts.is_empty() {
            return Err(damaged(format!("column `{path}` has no parts")));
        }
        Ok(parts)
    }

    /// A list: a group of one repeated field. By the rules for compatibility in Parquet's definition of its logical types
    /// that field is the element itself, or has it as its only part.
    fn list(&mut self, field: &Type, level: i16, repetition: i16) -> Result<Shape, Problem> {
        let repeated = match field.get_fields() {
            [one] if one.get_basic_info().repetition() == Repetition::REPEATED => one,
            _ => {
                let path = self.path.join(".");
                return Err(damaged(format!(
                    "column `{path}` is no list of one kind of element"
                )));
            }
        };
        let is_element = repeated.is_primitive()
            || repeated.get_fields().len() != 1
            || repeated.name() == "array"
            || repeated.name() == format!("{}_tuple", field.name());
        let (level, repetition) = (level + 1, repetition + 1);
        let element = if is_element {
            self.present(repeated, level, repetition)?
        } else {
            self.node(&repeated.get_fields()[0], level, repetition)?
        };
        Ok(Shape::List {
            element_level: level,
            repetition,
            element: Box::new(element),
        })
    }
}

impl Node {
    /// The first leaf within it, whose levels tell whether it is there.
    pub(super) fn first(&self) -> usize {
        match &self.shape {
            Shape::Leaf(leaf) => *leaf,
            // A record without parts is refused where the tree is made.
            Shape::Record(parts) => parts.first().map_or(0, |(_, part)| part.first()),
            Shape::List { element, .. } => element.first(),
        }
    }
}

fn is_list(field: &Type) -> bool {
    let info = field.get_basic_info();
    info.converted_type() == ConvertedType::LIST
        || matches!(info.logical_type_ref(), Some(LogicalType::List))
}

fn leaves(field: &Type) -> usize {
    match field.is_primitive() {
        true => 1,
        false => field.get_fields().iter().map(|part| leaves(part)).sum(),
    }
}

fn kind(field: &Type) -> Kind {
    let info = field.get_basic_info();
    let converted = info.converted_type();
    match (field.get_physical_type(), converted) {
        (Physical::BYTE_ARRAY, ConvertedType::UTF8 | ConvertedType::JSON | ConvertedType::ENUM) => {
            Kind::Text
        }
        (Physical::BYTE_ARRAY, ConvertedType::NONE) => Kind::Other("bytes".to_owned()),
        (Physical::BOOLEAN, _) => Kind::Boolean,
        (Physical::FLOAT | Physical::DOUBLE, _) => Kind::Float,
        (
            Physical::INT32 | Physical::INT64,
            ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
            | ConvertedType::UINT_64,
        ) => Kind::Unsigned,
        (
            Physical::INT32 | Physical::INT64,
            ConvertedType::NONE
            | ConvertedType::INT_8
            | ConvertedType::INT_16
            | ConvertedType::INT_32
            | ConvertedType::INT_64,
        ) if !is_time(info.logical_type_ref()) => Kind::Integer,
        (physical, ConvertedType::NONE) => Kind::Other(format!("{physical} of another meaning")),
        (_, converted) => Kind::Other(converted.to_string()),
    }
}

/// Whether a number counts time. Nanoseconds have no name in the older way of saying it.
const fn is_time(logical: Option<&LogicalType>) -> bool {
    matches!(
        logical,
        Some(LogicalType::Timestamp { .. } | LogicalType::Time { .. } | LogicalType::Date)
    )
}
