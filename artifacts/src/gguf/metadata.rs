//! The metadata of a GGUF file: keys with values of thirteen types, here folded into five.

use std::collections::BTreeMap;
use std::fmt;

use super::cursor::Cursor;

/// The most elements of an array; the largest vocabularies have some hundred thousand.
const MAX_ARRAY: u64 = 1 << 24;

/// A value. Integers of all widths are one variant, floats of both widths another.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer of any width.
    Integer(i64),
    /// A float of either width.
    Float(f64),
    /// A truth value.
    Boolean(bool),
    /// A text.
    String(String),
    /// A list of values of one type.
    Array(Array),
}

/// A list of values of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Integers of any width.
    Integers(Vec<i64>),
    /// Floats of either width.
    Floats(Vec<f64>),
    /// Truth values.
    Booleans(Vec<bool>),
    /// Texts.
    Strings(Vec<String>),
}

impl Value {
    /// The integer, where it is one that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Integer(value) => u64::try_from(*value).ok(),
            Self::Float(_) | Self::Boolean(_) | Self::String(_) | Self::Array(_) => None,
        }
    }

    /// The number, where it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Integer(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Boolean(_) | Self::String(_) | Self::Array(_) => None,
        }
    }

    /// The truth value, where it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(*value),
            Self::Integer(_) | Self::Float(_) | Self::String(_) | Self::Array(_) => None,
        }
    }

    /// The text, where it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            Self::Integer(_) | Self::Float(_) | Self::Boolean(_) | Self::Array(_) => None,
        }
    }

    /// The texts, where it is a list of them.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::Array(Array::Strings(values)) => Some(values),
            Self::Array(Array::Integers(_) | Array::Floats(_) | Array::Booleans(_))
            | Self::Integer(_)
            | Self::Float(_)
            | Self::Boolean(_)
            | Self::String(_) => None,
        }
    }

    /// The integers, where it is a list of them.
    pub fn as_integers(&self) -> Option<&[i64]> {
        match self {
            Self::Array(Array::Integers(values)) => Some(values),
            Self::Array(Array::Strings(_) | Array::Floats(_) | Array::Booleans(_))
            | Self::Integer(_)
            | Self::Float(_)
            | Self::Boolean(_)
            | Self::String(_) => None,
        }
    }

    /// The floats, where it is a list of them.
    pub fn as_floats(&self) -> Option<&[f64]> {
        match self {
            Self::Array(Array::Floats(values)) => Some(values),
            Self::Array(Array::Strings(_) | Array::Integers(_) | Array::Booleans(_))
            | Self::Integer(_)
            | Self::Float(_)
            | Self::Boolean(_)
            | Self::String(_) => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(formatter, "{value}"),
            Self::Float(value) => write!(formatter, "{value}"),
            Self::Boolean(value) => write!(formatter, "{value}"),
            Self::String(value) => write!(formatter, "{value:?}"),
            Self::Array(Array::Integers(values)) => {
                write!(formatter, "a list of {} integers", values.len())
            }
            Self::Array(Array::Floats(values)) => {
                write!(formatter, "a list of {} floats", values.len())
            }
            Self::Array(Array::Booleans(values)) => {
                write!(formatter, "a list of {} booleans", values.len())
            }
            Self::Array(Array::Strings(values)) => {
                write!(formatter, "a list of {} strings", values.len())
            }
        }
    }
}

/// The types, numbered as the file has them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Boolean,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Boolean,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, String> {
        let number = cursor.u32()?;
        Self::ALL
            .get(number as usize)
            .copied()
            .ok_or_else(|| format!("the value type {number} is unknown, expected 0 to 12"))
    }

    /// The fewest bytes that a value takes.
    const fn least_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Boolean => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

/// Reads `count` entries.
pub(super) fn read(cursor: &mut Cursor<'_>, count: u64) -> Result<BTreeMap<String, Value>, String> {
    let mut metadata = BTreeMap::new();
    for number in 1..=count {
        let key = cursor
            .name()
            .map_err(|message| format!("entry {number} of its {count} metadata: {message}"))?;
        let value = Kind::read(cursor)
            .and_then(|kind| value(cursor, kind))
            .map_err(|error| format!("metadata key `{key}`: {error}"))?;
        if metadata.contains_key(&key) {
            return Err(format!("metadata key `{key}` is there twice"));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn value(cursor: &mut Cursor<'_>, kind: Kind) -> Result<Value, String> {
    Ok(match kind {
        Kind::F32 | Kind::F64 => Value::Float(float(cursor, kind)?),
        Kind::Boolean => Value::Boolean(boolean(cursor)?),
        Kind::String => Value::String(cursor.string()?),
        Kind::Array => Value::Array(array(cursor)?),
        Kind::U8
        | Kind::I8
        | Kind::U16
        | Kind::I16
        | Kind::U32
        | Kind::I32
        | Kind::U64
        | Kind::I64 => Value::Integer(integer(cursor, kind)?),
    })
}

fn array(cursor: &mut Cursor<'_>) -> Result<Array, String> {
    let kind = Kind::read(cursor)?;
    let count = cursor.u64()?;
    let possible = (cursor.remaining() / kind.least_bytes()) as u64;
    if count > MAX_ARRAY || count > possible {
        return Err(format!(
            "a list claims {count} values, expected at most {}",
            possible.min(MAX_ARRAY)
        ));
    }
    Ok(match kind {
        Kind::Array => return Err("a list of lists is not supported".to_owned()),
        Kind::F32 | Kind::F64 => Array::Floats(
            (0..count)
                .map(|_| float(cursor, kind))
                .collect::<Result<_, _>>()?,
        ),
        Kind::Boolean => Array::Booleans(
            (0..count)
                .map(|_| boolean(cursor))
                .collect::<Result<_, _>>()?,
        ),
        Kind::String => Array::Strings(
            (0..count)
                .map(|_| cursor.string())
                .collect::<Result<_, _>>()?,
        ),
        Kind::U8
        | Kind::I8
        | Kind::U16
        | Kind::I16
        | Kind::U32
        | Kind::I32
        | Kind::U64
        | Kind::I64 => Array::Integers(
            (0..count)
                .map(|_| integer(cursor, kind))
                .collect::<Result<_, _>>()?,
        ),
    })
}

fn integer(cursor: &mut Cursor<'_>, kind: Kind) -> Result<i64, String> {
    Ok(match kind {
        Kind::U8 => cursor.array().map(u8::from_le_bytes)?.into(),
        Kind::I8 => cursor.array().map(i8::from_le_bytes)?.into(),
        Kind::U16 => cursor.array().map(u16::from_le_bytes)?.into(),
        Kind::I16 => cursor.array().map(i16::from_le_bytes)?.into(),
        Kind::U32 => cursor.u32()?.into(),
        Kind::I32 => cursor.array().map(i32::from_le_bytes)?.into(),
        Kind::U64 => i64::try_from(cursor.u64()?)
            .map_err(|_| "an integer is 2^63 or more, expected less".to_owned())?,
        Kind::I64 | Kind::F32 | Kind::F64 | Kind::Boolean | Kind::String | Kind::Array => {
            cursor.array().map(i64::from_le_bytes)?
        }
    })
}

fn float(cursor: &mut Cursor<'_>, kind: Kind) -> Result<f64, String> {
    if kind == Kind::F32 {
        cursor.array().map(f32::from_le_bytes).map(f64::from)
    } else {
        cursor.array().map(f64::from_le_bytes)
    }
}

fn boolean(cursor: &mut Cursor<'_>) -> Result<bool, String> {
    match cursor.array::<1>()? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(format!("a boolean is {other}, expected 0 or 1")),
    }
}
