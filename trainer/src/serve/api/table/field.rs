//! What a table says: the fields that stand in one place, and what is done with each.

use super::kind::Kind;

/// What is done with a field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It is acted on.
    ActedOn,
    /// It cannot change the answer and is passed over.
    Harmless,
    /// Not supported; these values, as JSON, ask for nothing and are passed over.
    RefusedUnless(&'static [&'static str]),
    /// Not supported.
    Refused,
}

/// A field. A value of `null` is the same as no field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    pub(super) kind: Kind,
    /// Whether the object must have it.
    pub(super) required: bool,
    /// What it does, or why it is refused and what to do instead.
    pub(super) says: &'static str,
    /// The fields of the object, or of each object of the list, that it holds; absent where that is the client's own.
    pub(super) inside: Option<&'static Table>,
}

/// The fields that stand in one place.
#[derive(Debug)]
pub(crate) struct Table {
    /// Where.
    pub(super) place: &'static str,
    pub(super) fields: &'static [&'static [Field]],
    /// Fields that hold another kind of value in this place.
    pub(super) other_kinds: &'static [(&'static str, Kind)],
    /// Fields that are none, and those that whoever sends them means.
    pub(super) mistaken: &'static [(&'static str, &'static str)],
}

impl Table {
    pub(super) const fn new(place: &'static str, fields: &'static [&'static [Field]]) -> Self {
        Self {
            place,
            fields,
            other_kinds: &[],
            mistaken: &[],
        }
    }

    pub(super) const fn mistaken(self, mistaken: &'static [(&'static str, &'static str)]) -> Self {
        Self {
            place: self.place,
            fields: self.fields,
            other_kinds: self.other_kinds,
            mistaken,
        }
    }

    /// All fields.
    pub(super) fn all(&self) -> impl Iterator<Item = &'static Field> + use<> {
        self.fields.iter().flat_map(|fields| fields.iter())
    }

    /// The field of this name.
    pub(super) fn find(&self, name: &str) -> Option<&'static Field> {
        self.all().find(|field| field.name == name)
    }
}

pub(super) const fn acted_on(name: &'static str, says: &'static str) -> Field {
    Field {
        name,
        verdict: Verdict::ActedOn,
        kind: Kind::Any,
        required: false,
        says,
        inside: None,
    }
}

pub(super) const fn harmless(name: &'static str, says: &'static str) -> Field {
    Field {
        verdict: Verdict::Harmless,
        ..acted_on(name, says)
    }
}

pub(super) const fn refused(name: &'static str, says: &'static str) -> Field {
    Field {
        verdict: Verdict::Refused,
        ..acted_on(name, says)
    }
}

pub(super) const fn unless(
    name: &'static str,
    neutral: &'static [&'static str],
    says: &'static str,
) -> Field {
    Field {
        verdict: Verdict::RefusedUnless(neutral),
        ..acted_on(name, says)
    }
}

impl Field {
    pub(super) const fn of(self, inside: &'static Table) -> Self {
        Self {
            inside: Some(inside),
            kind: Kind::Object,
            ..self
        }
    }

    pub(super) const fn is(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    pub(super) const fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }
}
