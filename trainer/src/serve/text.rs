//! From tokens to text piece by piece: whole characters only, and nothing after a stop string.
//!
//! The pieces put together are the text that decoding all tokens at once gives, whatever the tokenizer joins.

use crate::tokenize::{Error, Tokenizer};

/// What stands for bytes that are no character (yet).
const REPLACEMENT: char = '\u{fffd}';
/// Tokens before an answer that decide how its first one is written (some tokenizers drop the space before a first word).
const CONTEXT: usize = 6;

/// Decodes an answer token by token.
#[derive(Debug)]
pub(crate) struct IncrementalText {
    /// The last tokens: those before `read` have been given out, and those between `context` and `read` decide how what
    /// follows is written.
    tokens: Vec<u32>,
    read: usize,
    /// The text of the tokens before `read`.
    given: String,
}

impl IncrementalText {
    /// A decoder for what follows `prompt`.
    pub(crate) fn new(tokenizer: &Tokenizer, prompt: &[u32]) -> Result<Self, Error> {
        let tokens = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        let given = tokenizer.decode(&tokens, true)?;
        Ok(Self {
            read: tokens.len(),
            tokens,
            given,
        })
    }

    /// The text that one more token makes certain; empty while a character is incomplete. Special tokens have none.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<String, Error> {
        self.tokens.push(token);
        let text = tokenizer.decode(&self.tokens, true)?;
        if text.ends_with(REPLACEMENT) {
            return Ok(String::new());
        }
        self.take(tokenizer, &text)
    }

    /// What is left at the end: replacement characters for bytes that never became one.
    pub(crate) fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, Error> {
        let text = tokenizer.decode(&self.tokens, true)?;
        self.take(tokenizer, &text)
    }

    fn take(&mut self, tokenizer: &Tokenizer, text: &str) -> Result<String, Error> {
        let new = text.get(self.given.len()..).unwrap_or_default().to_owned();
        // The tokens just given out become the context of the next; older ones are no longer needed.
        self.tokens.drain(..self.read);
        self.read = self.tokens.len();
        self.given = tokenizer.decode(&self.tokens, true)?;
        Ok(new)
    }
}

/// Cuts a text at the first stop string, and holds back what may become one.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Watches for `stops`, of which none is empty.
    pub(crate) const fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            held: String::new(),
        }
    }

    /// The text that can no longer be part of a stop string, and whether one has come; the text before it is then complete.
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop))
            .min();
        if let Some(start) = first {
            self.held.truncate(start);
            return (std::mem::take(&mut self.held), true);
        }
        let beginnings = self.held.char_indices().map(|(start, _)| start);
        let kept = beginnings
            .filter(|start| {
                self.stops
                    .iter()
                    .any(|stop| stop.starts_with(&self.held[*start..]))
            })
            .min()
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(kept);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, when no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_string_that_comes_in_pieces_is_cut_and_none_of_it_is_given_out() {
        let mut stops = StopStrings::new(vec!["END".to_owned(), "\n\n".to_owned()]);
        assert_eq!(stops.push("one E"), ("one ".to_owned(), false));
        assert_eq!(stops.push("N"), (String::new(), false));
        assert_eq!(stops.push("GLAND\n"), ("ENGLAND".to_owned(), false));
        assert_eq!(stops.push("\nrest END"), (String::new(), true));
    }

    #[test]
    fn the_earliest_of_several_stop_strings_counts() {
        let mut stops = StopStrings::new(vec!["c".to_owned(), "b".to_owned()]);
        assert_eq!(stops.push("abc"), ("a".to_owned(), true));
    }

    #[test]
    fn what_was_held_back_comes_at_the_end() {
        let mut stops = StopStrings::new(vec!["éé".to_owned()]);
        assert_eq!(stops.push("aé"), ("a".to_owned(), false));
        assert_eq!(stops.finish(), "é");
    }
}
