//! What a schema says of a number, be it a value, a length or a count: from where to where.

use std::fmt;

use serde_json::Value;

/// The numbers that a schema takes; all of them where it names no bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    least: Option<f64>,
    most: Option<f64>,
    without_least: bool,
    without_most: bool,
}

impl Range {
    /// The values of a number.
    pub(super) fn of_values(schema: &Value) -> Self {
        Self {
            // Of OpenAPI's third version, in which these are flags beside the bounds.
            without_least: schema["exclusiveMinimum"] == true,
            without_most: schema["exclusiveMaximum"] == true,
            ..Self::between(schema, "minimum", "maximum")
        }
    }

    /// The characters of a text.
    pub(super) fn of_lengths(schema: &Value) -> Self {
        Self::between(schema, "minLength", "maxLength")
    }

    /// The items of a list.
    pub(super) fn of_items(schema: &Value) -> Self {
        Self::between(schema, "minItems", "maxItems")
    }

    /// The entries of a map.
    pub(super) fn of_entries(schema: &Value) -> Self {
        Self::between(schema, "minProperties", "maxProperties")
    }

    fn between(schema: &Value, least: &str, most: &str) -> Self {
        Self {
            least: schema[least].as_f64(),
            most: schema[most].as_f64(),
            without_least: false,
            without_most: false,
        }
    }

    /// Whether a number lies in it.
    pub(super) fn has(&self, number: f64) -> bool {
        let is_above = |least| number > least || !self.without_least && number >= least;
        let is_below = |most| number < most || !self.without_most && number <= most;
        self.least.is_none_or(is_above) && self.most.is_none_or(is_below)
    }

    /// Whether a count lies in it.
    pub(super) fn has_count(&self, count: usize) -> bool {
        self.has(count as f64)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(least), Some(most)) = (self.least, self.most)
            && !self.without_least
            && !self.without_most
        {
            return write!(formatter, "{least} to {most}");
        }
        let words = |is_open, open, closed| if is_open { open } else { closed };
        let least = self.least.map(|least| {
            let words = words(self.without_least, "more than", "at least");
            format!("{words} {least}")
        });
        let most = self.most.map(|most| {
            let words = words(self.without_most, "less than", "at most");
            format!("{words} {most}")
        });
        let both: Vec<String> = least.into_iter().chain(most).collect();
        formatter.write_str(&both.join(" and "))
    }
}
