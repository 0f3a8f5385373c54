//! Rows of tokens, each one document or several end to end, padded on the right to one length.

use tch::{Device, Kind, Tensor};

use crate::ops::cross_entropy::{IGNORED, Targets};
use crate::ops::rope::Rope;
use crate::ops::rotation::Rotation;
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
    /// The greatest of them.
    pub greatest_token: i64,
    /// For each token of (B, T) the one that follows it, where that carries loss.
    pub targets: Targets,
    /// Where rows are packed: the lengths of the documents of each row. Absent where each row is one document.
    pub documents: Option<Vec<Vec<i64>>>,
    /// Where rows that are one document each are padded: their lengths without the padding. Absent where all have T tokens.
    pub lengths: Option<Vec<i64>>,
}

/// Which positions the tokens of a pass have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Positions<'a> {
    /// Each row is one document, from 0.
    Rows {
        /// Their lengths without padding; absent: that of the rows.
        lengths: Option<&'a [i64]>,
    },
    /// Each row is some documents of these lengths, each from 0.
    Documents(&'a [Vec<i64>]),
    /// They go on at `start` of a sequence of which so far `known` tokens are known.
    Cached {
        /// The position of the first.
        start: i64,
        /// The length of the sequence, these tokens included.
        known: i64,
    },
}

impl Positions<'_> {
    /// The positions of rows of `length` tokens: (T), or (B, T) where rows differ. Padding has 0.
    pub(super) fn numbers(&self, length: i64) -> Result<Tensor> {
        let start = match self {
            Self::Documents(documents) => {
                let mut numbers = Vec::with_capacity(documents.len() * length as usize);
                for (lengths, row) in documents.iter().zip(1..) {
                    numbers.extend(lengths.iter().flat_map(|length| 0..*length));
                    numbers.resize(row * length as usize, 0);
                }
                let shape = [documents.len() as i64, length];
                return Ok(Tensor::f_from_slice(&numbers)?.f_view(shape)?);
            }
            Self::Rows { .. } => 0,
            Self::Cached { start, .. } => *start,
        };
        let options = (Kind::Int64, Device::Cpu);
        Ok(Tensor::f_arange_start(start, start + length, options)?)
    }

    /// How the tokens of (B, T) are turned where that depends on the length of the sequence: each by that of its own document,
    /// so that neither padding nor what lies beside it in a pass counts.
    pub(super) fn rotation(
        &self,
        rope: &Rope,
        numbers: &Tensor,
        (batch, length): (i64, i64),
    ) -> Result<Rotation> {
        let mut of_tokens = Vec::new();
        match self {
            Self::Cached { known, .. } => return Rotation::new(rope, numbers, *known),
            Self::Rows { lengths: None } => return Rotation::new(rope, numbers, length),
            Self::Rows {
                lengths: Some(lengths),
            } => {
                for of_row in *lengths {
                    of_tokens.extend(std::iter::repeat_n(*of_row, length as usize));
                }
            }
            Self::Documents(documents) => {
                for (lengths, row) in documents.iter().zip(1..) {
                    let each = lengths.iter();
                    of_tokens.extend(each.flat_map(|of| std::iter::repeat_n(*of, *of as usize)));
                    // Padding is turned as anything that is there anyway.
                    of_tokens.resize(
                        row * length as usize,
                        lengths.last().copied().unwrap_or_default(),
                    );
                }
            }
        }
        Rotation::of_sequences(rope, numbers, &of_tokens, (batch, length))
    }
}

impl Batch {
    /// Where its tokens stand.
    pub(super) fn positions(&self) -> Positions<'_> {
        match &self.documents {
            Some(documents) => Positions::Documents(documents),
            None => Positions::Rows {
                lengths: self.lengths.as_deref(),
            },
        }
    }

    /// Lays rows side by side, each one document. At least one row has a token.
    pub fn new(rows: &[Row<'_>]) -> Result<Self> {
        let rows: Vec<Vec<Row<'_>>> = rows.iter().map(|row| vec![*row]).collect();
        Self::packed(&rows)
    }

    /// Lays rows side by side, each some documents end to end. At least one has a token.
    pub fn packed(rows: &[Vec<Row<'_>>]) -> Result<Self> {
        let length_of = |documents: &Vec<Row<'_>>| -> usize {
            documents.iter().map(|row| row.tokens.len()).sum()
        };
        let length = rows.iter().map(length_of).max().unwrap_or(0);
        if length == 0 {
            return Err(Error::Input(
                "the batch has no token, expected at least one".to_owned(),
            ));
        }
        let mut tokens = Vec::with_capacity(rows.len() * length);
        let mut targets = Vec::with_capacity(rows.len() * length);
        for (index, documents) in rows.iter().enumerate() {
            for row in documents {
                if row.tokens.len() != row.loss.len() {
                    return Err(Error::Input(format!(
                        "a row has {} tokens and {} loss flags, expected one flag a token",
                        row.tokens.len(),
                        row.loss.len()
                    )));
                }
                tokens.extend(row.tokens.iter().map(|&token| i64::from(token)));
                let following = row.tokens.iter().zip(row.loss).skip(1);
                targets.extend(
                    following.map(|(&token, &loss)| if loss { i64::from(token) } else { IGNORED }),
                );
                // The last token of a document has no successor.
                targets.extend((!row.tokens.is_empty()).then_some(IGNORED));
            }
            tokens.resize((index + 1) * length, 0);
            targets.resize((index + 1) * length, IGNORED);
        }
        let lengths = |documents: &Vec<Row<'_>>| {
            let lengths = documents.iter().map(|row| row.tokens.len() as i64);
            lengths.filter(|length| *length > 0).collect()
        };
        let is_packed = rows.iter().any(|documents| documents.len() > 1);
        let of_rows: Vec<i64> = rows.iter().map(|row| length_of(row) as i64).collect();
        let is_padded = of_rows.iter().any(|of_row| *of_row != length as i64);
        Ok(Self {
            documents: is_packed.then(|| rows.iter().map(lengths).collect()),
            lengths: (is_padded && !is_packed).then_some(of_rows),
            ..Self::of_targets(&tokens, &targets, rows.len() as i64)?
        })
    }

    /// Tokens of so many rows of one length, each one document, and what each token is followed by: -100 where that carries no loss.
    pub fn of_targets(tokens: &[i64], targets: &[i64], rows: i64) -> Result<Self> {
        Ok(Self {
            tokens: Tensor::f_from_slice(tokens)?.f_view([rows, -1])?,
            greatest_token: tokens.iter().copied().max().unwrap_or(0),
            targets: Targets::new(targets)?,
            documents: None,
            lengths: None,
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
        assert_eq!(batch.targets.pairs(), [(1, 7)]);
    }

    #[test]
    fn no_document_of_a_packed_row_foretells_the_next() {
        const TRAINED: [bool; 3] = [true; 3];
        let document = |tokens: &'static [u32]| Row {
            tokens,
            loss: &TRAINED[..tokens.len()],
        };
        let rows = [
            vec![document(&[5, 6]), document(&[7, 8, 9])],
            vec![document(&[4])],
        ];
        let batch = Batch::packed(&rows).unwrap();
        assert_eq!(
            Vec::<Vec<i64>>::try_from(&batch.tokens).unwrap(),
            [[5, 6, 7, 8, 9], [4, 0, 0, 0, 0]]
        );
        assert_eq!(batch.targets.pairs(), [(0, 6), (2, 8), (3, 9)]);
        assert_eq!(batch.documents, Some(vec![vec![2, 3], vec![1]]));
        let positions = batch.positions().numbers(5).unwrap();
        assert_eq!(
            Vec::<Vec<i64>>::try_from(&positions).unwrap(),
            [[0, 1, 0, 1, 2], [0; 5]]
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
