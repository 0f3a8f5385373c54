//! JSON that keeps the order of keys, as Python's dictionaries do: a chat template prints tools in the order in which they
//! stand in the data.

use std::fmt;

use indexmap::IndexMap;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::Number;

use super::quoted::shortened;

/// An object: keys in the order of their first appearance, the last value of a repeated one.
pub type Object = IndexMap<String, Json>;

/// A JSON value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A number.
    Number(Number),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Self>),
    /// An object.
    Object(Object),
}

impl Json {
    /// What it is, for messages: `a number`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// Whether it is null or empty. As an optional field such a value says the same as the field's absence: files of different
    /// formats, and the clients that write them, fill fields that nobody set in different ways.
    pub fn says_nothing(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Text(text) => text.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Object(object) => object.is_empty(),
            Self::Boolean(_) | Self::Number(_) => false,
        }
    }

    /// The string, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Boolean(_) | Self::Number(_) | Self::List(_) | Self::Object(_) => {
                None
            }
        }
    }

    /// The object, where it is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            Self::Null | Self::Boolean(_) | Self::Number(_) | Self::Text(_) | Self::List(_) => None,
        }
    }

    /// The value as JSON text.
    pub fn to_text(&self) -> String {
        // Keys are strings and numbers are finite: serialising cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Boolean(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => serializer.collect_seq(list),
            Self::Object(object) => serializer.collect_map(object),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor::<false>)
    }
}

/// A JSON value of which no object has a key twice: of data, where one of two values would be lost in silence. Reading it
/// fails with a data error where one has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct UniqueKeys(pub(super) Json);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(JsonVisitor::<true>)
            .map(UniqueKeys)
    }
}

#[derive(Clone, Copy)]
struct JsonVisitor<const UNIQUE_KEYS: bool>;

impl<'de, const UNIQUE_KEYS: bool> DeserializeSeed<'de> for JsonVisitor<UNIQUE_KEYS> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, const UNIQUE_KEYS: bool> Visitor<'de> for JsonVisitor<UNIQUE_KEYS> {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(self)? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut object = Object::new();
        while let Some(key) = access.next_key()? {
            let value = access.next_value_seed(self)?;
            let (place, before) = object.insert_full(key, value);
            if UNIQUE_KEYS
                && before.is_some()
                && let Some((key, _)) = object.get_index(place)
            {
                let key = shortened(key);
                return Err(A::Error::custom(format!("the key {key} is there twice")));
            }
        }
        Ok(Json::Object(object))
    }
}

/// What serde_json says, without its own place, which counts within the row.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let reason = error.to_string();
    match reason.split(" at line ").next().unwrap_or_default() {
        // It says both of half a pair alone.
        "unexpected end of hex escape" | "lone leading surrogate in hex escape" => {
            "an escape from `\\ud800` to `\\udfff` is half of a character and stands without its other half, expected both, or \
             the character itself"
                .to_owned()
        }
        reason => reason.to_owned(),
    }
}
