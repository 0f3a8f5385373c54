//! PEFT's `rank_pattern` and `alpha_pattern`: values for some modules, by a regular expression for the end of a module's name.

use std::collections::BTreeMap;

use regex::Regex;

/// Values by pattern.
#[derive(Clone, Debug)]
pub struct Pattern<T> {
    entries: Vec<(String, Regex, T)>,
}

impl<T: Copy> Pattern<T> {
    /// Compiles the patterns. They are tried in alphabetical order, the order in which PEFT writes and so reads them.
    pub fn new(values: &BTreeMap<String, T>) -> Result<Self, String> {
        let compile = |(pattern, value): (&String, &T)| {
            // As PEFT's `get_pattern_key`: `(.*\.)?(pattern)$`, from the start of the name.
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|error| {
                let error = error.to_string();
                // The last line says what is wrong; those before it show where, over several lines.
                let reason = error.lines().last().unwrap_or_default();
                format!(
                    "has the pattern `{pattern}`, which is no regular expression: {}",
                    reason.trim_start_matches("error: ")
                )
            })?;
            Ok((pattern.clone(), regex, *value))
        };
        Ok(Self {
            entries: values.iter().map(compile).collect::<Result<_, String>>()?,
        })
    }

    /// The value of the first pattern that matches the module with this full name.
    pub fn of(&self, module: &str) -> Option<T> {
        let matching = |(_, regex, _): &&(String, Regex, T)| regex.is_match(module);
        self.entries
            .iter()
            .find(matching)
            .map(|(_, _, value)| *value)
    }

    /// The first pattern that matches none of these modules.
    pub fn without_match<'a>(
        &self,
        modules: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<&str> {
        let idle =
            |(_, regex, _): &&(String, Regex, T)| !modules.clone().any(|name| regex.is_match(name));
        self.entries
            .iter()
            .find(idle)
            .map(|(pattern, _, _)| pattern.as_str())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const MODULE: &str = "model.layers.1.mlp.up_proj";

    fn pattern(values: &[(&str, i64)]) -> Pattern<i64> {
        let values = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), *value));
        Pattern::new(&values.collect()).unwrap()
    }

    /// What `peft.utils.other.get_pattern_key` says of the same.
    #[rstest]
    #[case("up_proj", true)]
    #[case("mlp.up_proj", true)]
    #[case(MODULE, true)]
    #[case("up_proj|q_proj", true)]
    #[case(r"layers\.[01]\..*", true)]
    #[case("p_proj", false)]
    #[case("up_pro", false)]
    #[case("layers.1", false)]
    #[case("mlp", false)]
    fn a_pattern_matches_whole_parts_at_the_end(#[case] key: &str, #[case] matches: bool) {
        assert_eq!(pattern(&[(key, 3)]).of(MODULE).is_some(), matches);
    }

    #[test]
    fn the_first_in_alphabetical_order_counts() {
        let pattern = pattern(&[("up_proj", 1), ("mlp.up_proj", 2)]);
        assert_eq!(pattern.of(MODULE), Some(2));
        assert_eq!(pattern.of("other.up_proj"), Some(1));
    }

    #[test]
    fn a_broken_pattern_is_named() {
        let error = Pattern::new(&[("up_proj(".to_owned(), 1)].into()).unwrap_err();
        assert!(
            error.starts_with("has the pattern `up_proj(`, which is no regular expression"),
            "{error}"
        );
    }
}
