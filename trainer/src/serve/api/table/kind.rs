//! What kind of value a field holds, in the words of messages. It is told from the JSON as it stands: as values, long lists would take
//! many times their bytes.

use std::fmt;

use serde::Deserializer;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::serve::api::prompt;

/// The most characters of a value that a message repeats.
pub(super) const SHOWN: usize = 80;

/// The kind of a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// What reads the field says.
    Any,
    Text,
    Boolean,
    Number,
    /// A whole number in a range.
    Whole(i64, i64),
    /// A list of such numbers.
    Wholes(i64, i64),
    Object,
    Objects,
    TextOrTexts,
    TextOrObjects,
    /// A text or tokens.
    Prompt,
}

/// How many of something.
pub(super) const COUNT: Kind = Kind::Whole(0, u32::MAX as i64);
/// Any whole number.
pub(super) const WHOLE: Kind = Kind::Whole(i64::MIN, i64::MAX);
/// Token ids.
pub(super) const TOKENS: Kind = Kind::Wholes(0, u32::MAX as i64);

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Any => "a value",
            Self::Text => "a string",
            Self::Boolean => "true or false",
            Self::Number => "a number",
            Self::Whole(least, most) => {
                return write!(formatter, "a whole number from {least} to {most}");
            }
            Self::Wholes(least, most) => {
                return write!(formatter, "a list of whole numbers from {least} to {most}");
            }
            Self::Object => "an object",
            Self::Objects => "a list of objects",
            Self::TextOrTexts => "a string or a list of strings",
            Self::TextOrObjects => "a string or a list of objects",
            Self::Prompt => prompt::KIND,
        })
    }
}

impl Kind {
    /// Says what is wrong with `value`, which is JSON and stands at `path`.
    pub(super) fn check(self, value: &str, path: &str) -> Result<(), String> {
        if !self.fits(value) {
            return Err(format!("`{path}` is {}, expected {self}", shown(value)));
        }
        match self {
            Self::TextOrTexts => Self::Text.check_items(value, path),
            Self::Wholes(least, most) => Self::Whole(least, most).check_items(value, path),
            _ => Ok(()),
        }
    }

    /// Whether `value` is of this kind, whatever stands inside.
    pub(super) fn fits(self, value: &str) -> bool {
        let begins = |with: &[char]| value.starts_with(with);
        match self {
            Self::Any => true,
            Self::Text => begins(&['"']),
            Self::Boolean => value == "true" || value == "false",
            Self::Number => value.parse().is_ok_and(f64::is_finite),
            // JSON has a number that whole numbers lack.
            Self::Whole(least, most) => {
                let number = value.parse::<i64>().ok();
                value != "-0" && number.is_some_and(|number| (least..=most).contains(&number))
            }
            Self::Object => begins(&['{']),
            Self::Objects | Self::Wholes(..) => begins(&['[']),
            Self::TextOrTexts | Self::TextOrObjects | Self::Prompt => begins(&['"', '[']),
        }
    }

    /// The same of each item, where `value` is a list.
    fn check_items(self, value: &str, path: &str) -> Result<(), String> {
        if !value.starts_with('[') {
            return Ok(());
        }
        let mut fault = None;
        let items = Items {
            kind: self,
            path,
            fault: &mut fault,
        };
        // That it is JSON is known: it was read as a part of the body.
        let read = serde_json::Deserializer::from_str(value).deserialize_seq(items);
        match (fault, read) {
            (Some(fault), _) => Err(fault),
            (None, Ok(())) => Ok(()),
            (None, Err(error)) => Err(format!("`{path}` is not JSON: {error}")),
        }
    }
}

struct Items<'a> {
    kind: Kind,
    path: &'a str,
    fault: &'a mut Option<String>,
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        while let Some(item) = list.next_element::<&RawValue>()? {
            let item = item.get();
            if self.fault.is_none() && !self.kind.fits(item) {
                let (path, shown, kind) = (self.path, shown(item), self.kind);
                *self.fault = Some(format!("`{path}[{index}]` is {shown}, expected {kind}"));
            }
            index += 1;
        }
        Ok(())
    }
}

/// A value in a message: lists and objects by their kind, others as they stand, as far as they are short.
pub(super) fn shown(value: &str) -> String {
    match value.as_bytes().first() {
        Some(b'[') => "a list".to_owned(),
        Some(b'{') => "an object".to_owned(),
        _ => shortened(value),
    }
}

/// The beginning of a value.
pub(super) fn shortened(value: &str) -> String {
    let mut shown: String = value.chars().take(SHOWN + 1).collect();
    if shown.chars().count() > SHOWN {
        shown.pop();
        shown.push('…');
    }
    shown
}
