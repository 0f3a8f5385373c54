//! What the rows of a pass are to say, made on the host once a batch.

use tch::Tensor;

use crate::ops::{Error, Result};

/// The target of a row that carries no loss.
pub const IGNORED: i64 = -100;

/// The rows that carry loss and their targets.
#[derive(Debug)]
pub struct Targets {
    /// Of all rows M the indices of those that carry loss (K), int64.
    pub(super) rows: Tensor,
    /// The token that each of them is to say (K), int64.
    pub(super) tokens: Tensor,
    count: i64,
    /// The greatest of the tokens; 0 where there are none.
    greatest: i64,
}

impl Targets {
    /// One target a row, [`IGNORED`] where it carries no loss.
    pub fn new(targets: &[i64]) -> Result<Self> {
        let (mut rows, mut tokens) = (Vec::new(), Vec::new());
        for (row, &target) in (0..).zip(targets) {
            if target == IGNORED {
                continue;
            }
            if target < 0 {
                return Err(Error::Input(format!(
                    "target {target}, expected a token or {IGNORED}"
                )));
            }
            rows.push(row);
            tokens.push(target);
        }
        Ok(Self {
            count: rows.len() as i64,
            greatest: tokens.iter().copied().max().unwrap_or(0),
            rows: Tensor::f_from_slice::<i64>(&rows)?,
            tokens: Tensor::f_from_slice(&tokens)?,
        })
    }

    /// How many rows carry loss.
    pub const fn count(&self) -> i64 {
        self.count
    }

    /// Each row that carries loss with its target.
    #[cfg(test)]
    pub(crate) fn pairs(&self) -> Vec<(i64, i64)> {
        let list = |tensor: &Tensor| Vec::<i64>::try_from(tensor).unwrap();
        list(&self.rows)
            .into_iter()
            .zip(list(&self.tokens))
            .collect()
    }

    /// Refuses targets that no logit belongs to.
    pub(super) fn check(&self, vocabulary: i64) -> Result<()> {
        if self.greatest < vocabulary {
            return Ok(());
        }
        Err(Error::Input(format!(
            "target {}, expected 0 to {} or {IGNORED}: the tokenizer belongs to another model",
            self.greatest,
            vocabulary - 1
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_a_target_are_left_out() {
        let targets = Targets::new(&[3, IGNORED, 0, IGNORED]).unwrap();
        assert_eq!(targets.pairs(), [(0, 3), (2, 0)]);
        assert_eq!(targets.count(), 2);
    }

    #[test]
    fn a_target_that_is_no_token_is_refused() {
        let error = Targets::new(&[1, -1]).unwrap_err().to_string();
        assert!(error.contains("target -1"), "{error}");
        let error = Targets::new(&[9]).unwrap().check(9).unwrap_err();
        assert!(error.to_string().contains("target 9, expected 0 to 8"));
    }
}
