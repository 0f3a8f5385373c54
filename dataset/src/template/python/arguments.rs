//! The arguments of a method: by place or by name, as Python takes them.

use minijinja::value::Kwargs;
use minijinja::{Error, Value};

use super::fault;

/// What a method is called with.
pub(in crate::template) struct Arguments<'a> {
    method: &'a str,
    placed: &'a [Value],
    named: Option<Kwargs>,
}

impl<'a> Arguments<'a> {
    pub(in crate::template) fn new(method: &'a str, given: &'a [Value]) -> Result<Self, Error> {
        let (placed, named) = match given.split_last() {
            Some((last, before)) if last.is_kwargs() => {
                (before, Some(Kwargs::try_from(last.clone())?))
            }
            _ => (given, None),
        };
        Ok(Self {
            method,
            placed,
            named,
        })
    }

    /// Up to so many arguments of these names; those that are absent or none are `None`.
    pub(in crate::template) fn at_most<const N: usize>(
        &self,
        names: [&str; N],
    ) -> Result<[Option<Value>; N], Error> {
        if self.placed.len() > N {
            return Err(fault(format!(
                "{} takes {N} arguments at most, and has {}",
                self.method,
                self.placed.len()
            )));
        }
        let mut found = [const { None }; N];
        for (index, name) in names.iter().enumerate() {
            let value = match (self.placed.get(index), &self.named) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(named)) if named.has(name) => Some(named.get::<Value>(name)?),
                (None, _) => None,
            };
            found[index] = value.filter(|value| !value.is_none());
        }
        if let Some(named) = &self.named {
            named.assert_all_used()?;
        }
        Ok(found)
    }

    /// That there are none.
    pub(super) fn none(&self) -> Result<(), Error> {
        self.at_most([]).map(|[]| ())
    }

    /// An argument that must be there.
    pub(super) fn needed<'v>(&self, value: Option<&'v Value>) -> Result<&'v Value, Error> {
        value.ok_or_else(|| fault(format!("{} lacks an argument", self.method)))
    }

    /// An argument that must be there and be a text.
    pub(super) fn text(&self, value: Option<&Value>) -> Result<String, Error> {
        let value = self.needed(value)?;
        match value.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(fault(format!(
                "{} has an argument that is a {}, expected a text",
                self.method,
                value.kind()
            ))),
        }
    }

    /// The one text that a method takes.
    pub(super) fn one_text(&self) -> Result<String, Error> {
        let [value] = self.at_most([""])?;
        self.text(value.as_ref())
    }
}

/// A whole number.
pub(super) fn number(value: &Value) -> Result<i64, Error> {
    i64::try_from(value.clone())
}

/// The places from `start` to `end` of `length`, counted from the end where they are negative.
pub(super) fn range(
    start: Option<&Value>,
    end: Option<&Value>,
    length: usize,
) -> Result<(usize, usize), Error> {
    let place = |value: Option<&Value>, absent: usize| -> Result<usize, Error> {
        let Some(value) = value else {
            return Ok(absent);
        };
        let place = number(value)?;
        let place = if place < 0 {
            place.saturating_add(length as i64).max(0)
        } else {
            place
        };
        Ok(usize::try_from(place).unwrap_or(usize::MAX))
    };
    let end = place(end, length)?.min(length);
    Ok((place(start, 0)?, end))
}
