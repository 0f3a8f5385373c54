//! What a completion is to continue. Read as it comes: to try one form after the other, each number would be kept as a value of
//! thirty bytes.

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// What a prompt is, for messages.
pub(super) const KIND: &str = "a string, a list of token ids, or a list that holds one of these";

/// What is to be continued.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Prompt {
    /// Text, which is tokenised with the tokenizer's own special tokens.
    Text(String),
    /// Token ids, used untouched.
    Tokens(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// Several lists of token ids.
    TokenLists(Vec<Vec<u32>>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

/// The first of a list, which says what the others must be.
enum First {
    Token(u32),
    Text(String),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FirstVisitor)
    }
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(KIND)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
        let first = list.next_element::<First>().map_err(unexpected)?;
        Ok(match first {
            None => Prompt::Tokens(Vec::new()),
            Some(First::Token(token)) => Prompt::Tokens(rest(token, list)?),
            Some(First::Text(text)) => Prompt::Texts(rest(text, list)?),
            Some(First::Tokens(tokens)) => Prompt::TokenLists(rest(tokens, list)?),
        })
    }
}

struct FirstVisitor;

impl<'de> Visitor<'de> for FirstVisitor {
    type Value = First;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a string, a token id, or a list of token ids")
    }

    fn visit_u64<E: Error>(self, token: u64) -> Result<First, E> {
        u32::try_from(token).map(First::Token).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<First, E> {
        Ok(First::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<First, A::Error> {
        let mut tokens = Vec::new();
        while let Some(token) = list.next_element()? {
            tokens.push(token);
        }
        Ok(First::Tokens(tokens))
    }
}

fn rest<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    first: T,
    mut list: A,
) -> Result<Vec<T>, A::Error> {
    let mut all = vec![first];
    while let Some(next) = list.next_element().map_err(unexpected)? {
        all.push(next);
    }
    Ok(all)
}

fn unexpected<E: Error>(_: E) -> E {
    E::custom(format_args!("expected the prompt to be {KIND}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r#""a""#, Prompt::Text("a".into()))]
    #[case("[]", Prompt::Tokens(vec![]))]
    #[case("[1, 2]", Prompt::Tokens(vec![1, 2]))]
    #[case(r#"["a", "b"]"#, Prompt::Texts(vec!["a".into(), "b".into()]))]
    #[case("[[1], [], [2, 3]]", Prompt::TokenLists(vec![vec![1], vec![], vec![2, 3]]))]
    fn a_prompt_has_four_forms(#[case] text: &str, #[case] expected: Prompt) {
        assert_eq!(serde_json::from_str::<Prompt>(text).unwrap(), expected);
    }

    #[rstest]
    #[case("[1, \"a\"]")]
    #[case("[\"a\", 1]")]
    #[case("[[1], 2]")]
    #[case("[-1]")]
    #[case("[1.5]")]
    #[case("[4294967296]")]
    #[case("[[[1]]]")]
    #[case("{}")]
    #[case("1")]
    #[case("true")]
    fn anything_else_is_refused_with_what_is_expected(#[case] text: &str) {
        let error = serde_json::from_str::<Prompt>(text).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(KIND), "{error}");
    }
}
