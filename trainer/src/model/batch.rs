//! Rows of tokens, padded on the right to one length.

use tch::Tensor;

use crate::ops::cross_entropy::IGNORED;
use crate::ops::{Error, Result};

/// One row: tokens, and for each whether the model is trained to say it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// One flag a token.
    pub loss: &'a [bool],
}

/// What one pass of the model takes. Causal attention makes padding harmless: no real token sees what is right of it.
#[derive(Debug)]
pub struct Batch {
    /// Token ids (B, T).
    pub tokens: Tensor,
    /// For each token the one that follows it, where that carries loss, else -100 (B, T).
    pub targets: Tensor,
}

impl Batch {
    /// Lays rows side by side. At least one row has a token.
    pub fn new(rows: &[Row<'_>]) -> Result<Self> {
        let length = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        if length == 0 {
            return Err(Error::Input(
                "the batch has no token, expected at least one".to_owned(),
            ));
        }
        let mut tokens = Vec::with_capacity(rows.len() * length);
        let mut targets = Vec::with_capacity(rows.len() * length);
        for row in rows {
            if row.tokens.len() != row.loss.len() {
                return Err(Error::Input(format!(
                    "a row has {} tokens and {} loss flags, expected one flag a token",
                    row.tokens.len(),
                    row.loss.len()
                )));
            }
            let padding = length - row.tokens.len();
            tokens.extend(row.tokens.iter().map(|&token| i64::from(token)));
            tokens.extend(std::iter::repeat_n(0, padding));
            let following = row.tokens.iter().zip(row.loss).skip(1);
            targets.extend(
                following.map(|(&token, &loss)| if loss { i64::from(token) } else { IGNORED }),
            );
            // The last token has no successor; an empty row has only padding.
            let unfilled = length - row.tokens.len().saturating_sub(1);
            targets.extend(std::iter::repeat_n(IGNORED, unfilled));
        }
        let shape = [rows.len() as i64, length as i64];
        Ok(Self {
            tokens: Tensor::f_from_slice(&tokens)?.f_view(shape)?,
            targets: Tensor::f_from_slice(&targets)?.f_view(shape)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_trained_from_the_position_before_it_and_padding_never() {
        let rows = [
            Row {
                tokens: &[5, 6, 7],
                loss: &[true, false, true],
            },
            Row {
                tokens: &[8],
                loss: &[true],
            },
        ];
        let batch = Batch::new(&rows).unwrap();
        assert_eq!(
            Vec::<Vec<i64>>::try_from(&batch.tokens).unwrap(),
            [[5, 6, 7], [8, 0, 0]]
        );
        assert_eq!(
            Vec::<Vec<i64>>::try_from(&batch.targets).unwrap(),
            [[-100, 7, -100], [-100; 3]]
        );
    }

    #[test]
    fn a_row_with_a_flag_too_few_is_refused() {
        let error = Batch::new(&[Row {
            tokens: &[5, 6],
            loss: &[true],
        }])
        .unwrap_err()
        .to_string();
        assert!(error.contains("2 tokens and 1 loss flags"), "{error}");
    }
}
