//! The text of an answer that knows which of it special tokens are: stop strings and the marks of calls are looked for in all
//! of it, and clients see the rest.

/// A text, and which of its bytes clients see.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct TokenText {
    text: String,
    seen: Vec<bool>,
}

impl TokenText {
    /// Adds a text, whose characters clients see or not.
    pub(super) fn push(&mut self, text: &str, seen: bool) {
        self.text.push_str(text);
        self.seen.resize(self.text.len(), seen);
    }

    /// Adds another one.
    pub(super) fn append(&mut self, other: &Self) {
        self.text.push_str(&other.text);
        self.seen.extend(&other.seen);
    }

    /// All of it.
    pub(super) fn all(&self) -> &str {
        &self.text
    }

    /// What clients see of the bytes in a range, whose ends are those of characters.
    pub(super) fn seen(&self, range: std::ops::Range<usize>) -> String {
        let start = range.start;
        let characters = self.text[range].char_indices();
        characters
            .filter(|(at, _)| self.seen[start + at])
            .map(|(_, character)| character)
            .collect()
    }

    /// Lets clients see the bytes from `start` on.
    pub(super) fn show_from(&mut self, start: usize) {
        self.seen[start..].fill(true);
    }

    /// Takes the first `count` bytes off.
    pub(super) fn take(&mut self, count: usize) -> Self {
        let rest = Self {
            text: self.text.split_off(count),
            seen: self.seen.split_off(count),
        };
        std::mem::replace(self, rest)
    }

    /// Takes all of it.
    pub(super) fn take_all(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Leaves the first `count` bytes.
    pub(super) fn truncate(&mut self, count: usize) {
        self.text.truncate(count);
        self.seen.truncate(count);
    }
}
