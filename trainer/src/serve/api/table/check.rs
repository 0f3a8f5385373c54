//! A request is checked against a table: its first field that could change the answer and is not acted on is refused by name.

use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::field::{Field, Table, Verdict};
use super::kind::{Kind, SHOWN, shortened, shown};
use crate::serve::request_error::RequestError;

impl Table {
    /// Refuses a request that is no object in JSON, and its first field that is of another kind than it must be, stands twice or
    /// is missing, or is not acted on and could change the answer.
    pub(crate) fn check(&self, request: &[u8]) -> Result<(), RequestError> {
        let text = std::str::from_utf8(request)
            .map_err(|error| RequestError::Request(format!("the body is not UTF-8: {error}")))?;
        let request: &RawValue = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        let request = request.get();
        if !Kind::Object.fits(request) {
            return Err(RequestError::Request(format!(
                "the body is {}, expected {}",
                shown(request),
                Kind::Object
            )));
        }
        self.check_value(request, "")
    }

    /// The fields of an object, or of each object of a list; of other values there are none.
    fn check_value(&self, value: &str, before: &str) -> Result<(), RequestError> {
        let mut deserializer = serde_json::Deserializer::from_str(value);
        let mut refused = None;
        let fields = Fields {
            table: self,
            before,
            refused: &mut refused,
        };
        let read = fields.deserialize(&mut deserializer);
        match (refused, read) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => Ok(()),
            (None, Err(error)) => Err(not_json(&error)),
        }
    }

    /// `met` are the fields before it in the same object.
    fn check_field(
        &self,
        name: &str,
        value: &str,
        before: &str,
        met: &mut Met,
    ) -> Result<(), RequestError> {
        let path = format!("{before}{name}");
        let field = self.find(name);
        if let Some(field) = field {
            if met.all.contains(&field.name) {
                let message = format!("`{path}` stands twice, expected once; leave one out");
                return Err(refusal(&path, message));
            }
            met.all.push(field.name);
            if value != "null" {
                met.with_value.push(field.name);
            }
        }
        if value == "null" {
            return Ok(());
        }
        let Some(field) = field else {
            // What is meant may stand behind it.
            if let Some(mistaken) = self.mistaken.iter().find(|(field, _)| *field == name) {
                met.mistaken.get_or_insert(*mistaken);
                return Ok(());
            }
            return Err(self.unknown(name, before, "leave it out"));
        };
        let other = self.other_kinds.iter().find(|(field, _)| *field == name);
        let kind = other.map_or(field.kind, |(_, kind)| *kind);
        field.check(kind, value, &path)
    }

    fn unknown(&self, name: &str, before: &str, cure: &str) -> RequestError {
        let path = format!("{before}{name}");
        let message = format!(
            "`{path}` is no field of {} that this server knows; {cure}",
            self.place
        );
        refusal(&path, message)
    }

    /// Refuses an object that has a field which is none in place of the one that is meant, or beside it.
    fn check_mistaken(&self, before: &str, met: &Met) -> Result<(), RequestError> {
        met.mistaken.map_or(Ok(()), |(name, meant)| {
            Err(if met.with_value.contains(&meant) {
                self.unknown(name, before, "leave it out")
            } else {
                self.unknown(
                    name,
                    before,
                    &format!("`{before}{meant}` is meant: rename it"),
                )
            })
        })
    }

    /// Refuses an object that lacks a field which it must have.
    fn check_missing(&self, before: &str, met: &Met) -> Result<(), RequestError> {
        let mut required = self.all().filter(|field| field.required);
        let missing = required.find(|field| !met.with_value.contains(&field.name));
        missing.map_or(Ok(()), |field| {
            let path = format!("{before}{}", field.name);
            let message = format!("`{path}` is missing, expected {}", field.kind);
            Err(refusal(&path, message))
        })
    }
}

/// The fields of an object that have been met.
#[derive(Default)]
struct Met {
    all: Vec<&'static str>,
    /// Those that are not `null`.
    with_value: Vec<&'static str>,
    /// The first that is none, and what is meant.
    mistaken: Option<(&'static str, &'static str)>,
}

/// Goes through the fields of a value where they stand, and keeps none of them.
struct Fields<'a> {
    table: &'a Table,
    before: &'a str,
    refused: &'a mut Option<RequestError>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut met = Met::default();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            if self.refused.is_none() {
                let value = value.get();
                let checked = self.table.check_field(&name, value, self.before, &mut met);
                *self.refused = checked.err();
            }
        }
        if self.refused.is_none() {
            let checked = self.table.check_mistaken(self.before, &met);
            let checked = checked.and_then(|()| self.table.check_missing(self.before, &met));
            *self.refused = checked.err();
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let place = self.before.trim_end_matches('.');
        let mut index = 0_usize;
        while let Some(item) = list.next_element::<&RawValue>()? {
            if self.refused.is_none() {
                let (item, path) = (item.get(), format!("{place}[{index}]"));
                let checked = match Kind::Object.check(item, &path) {
                    Ok(()) => self.table.check_value(item, &format!("{path}.")),
                    Err(message) => Err(refusal(&path, message)),
                };
                *self.refused = checked.err();
            }
            index += 1;
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

impl Field {
    fn check(&self, kind: Kind, value: &str, path: &str) -> Result<(), RequestError> {
        let neutral = match self.verdict {
            Verdict::ActedOn => {
                kind.check(value, path)
                    .map_err(|message| refusal(path, message))?;
                return self.inside.map_or(Ok(()), |table| {
                    table.check_value(value, &format!("{path}."))
                });
            }
            Verdict::Harmless => return Ok(()),
            Verdict::RefusedUnless(neutral) => neutral,
            Verdict::Refused => &[],
        };
        if neutral.iter().any(|neutral| same(neutral, value)) {
            return Ok(());
        }
        let cure = match neutral {
            [] => "leave it out".to_owned(),
            neutral => format!("leave it out or set it to {}", neutral.join(" or ")),
        };
        let (shown, says) = (shortened(value), self.says);
        let message =
            format!("`{path}` is {shown}, which this server does not support: {says}; {cure}");
        Err(refusal(path, message))
    }
}

fn not_json(error: &serde_json::Error) -> RequestError {
    RequestError::Request(format!("the body is not JSON: {error}"))
}

/// An error whose `param` is the field of the request in which the path begins.
fn refusal(path: &str, message: String) -> RequestError {
    let name = path.split(['.', '[']).next().unwrap_or(path);
    RequestError::field(name, message)
}

/// Whether `value` is the JSON `neutral`; numbers by value, so that 1.0 is 1.
fn same(neutral: &str, value: &str) -> bool {
    // What asks for nothing is short.
    if value.len() > SHOWN {
        return false;
    }
    match (serde_json::from_str(neutral), serde_json::from_str(value)) {
        (Ok(Value::Number(neutral)), Ok(Value::Number(value))) => {
            neutral.as_f64() == value.as_f64()
        }
        (Ok(neutral), Ok(value)) => neutral == value,
        _ => false,
    }
}
