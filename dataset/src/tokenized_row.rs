//! A row as the model sees it.

/// A row as the model sees it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct TokenizedRow {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// One flag a token: whether the model is trained to say it. Never set for the first one, which nothing foretells.
    pub loss: Vec<bool>,
}

impl TokenizedRow {
    /// How many tokens carry loss.
    pub fn trainable(&self) -> usize {
        self.loss.iter().filter(|loss| **loss).count()
    }
}

/// How many tokens each row has.
pub fn lengths(rows: &[TokenizedRow]) -> Vec<usize> {
    rows.iter().map(|row| row.tokens.len()).collect()
}
