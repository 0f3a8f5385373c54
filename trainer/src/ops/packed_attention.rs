//! Attention over rows of several documents laid end to end, none of which sees another.
//!
//! Each document is attended to by itself, so that the cost is the sum of the squares of their lengths, not the square of the
//! row's; there is no mask through which one could leak into the next. Padding gets zeros.

use tch::Tensor;

use super::Result;
use super::attention::{self, Gradients, Settings};

/// What the backward needs.
#[derive(Debug)]
pub enum Saved {
    /// Rows of one document each.
    Whole(attention::Saved),
    /// Rows of several.
    Documents {
        /// The shape of the queries (B, K, G, T, D).
        queries: Vec<i64>,
        /// Of each document its row, its first token, and what its backward needs.
        parts: Vec<(i64, i64, attention::Saved)>,
    },
}

/// As [`attention::forward`]; with `documents`, the lengths of those of each row, S = T.
pub fn forward(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    settings: Settings,
    documents: Option<&[Vec<i64>]>,
) -> Result<(Tensor, Saved)> {
    let Some(documents) = documents else {
        let (output, saved) = attention::forward(queries, keys, values, settings)?;
        return Ok((output, Saved::Whole(saved)));
    };
    let (batch, key_heads, groups, length, head_dim) = queries.size5()?;
    let options = (queries.f_kind()?, queries.device());
    let output = Tensor::f_zeros([batch * length, key_heads * groups * head_dim], options)?;
    let mut parts = Vec::new();
    for (row, start, length_here) in places(documents) {
        let settings = Settings {
            dropout: settings
                .dropout
                .map(|dropout| dropout.of_part(row as u32, start as u32)),
            ..settings
        };
        let part = |x: &Tensor, axis: i64| {
            x.f_narrow(0, row, 1)?
                .f_narrow(axis, start, length_here)?
                .f_contiguous()
        };
        let (here, saved) = attention::forward(
            part(&queries, 3)?,
            part(&keys, 2)?,
            part(&values, 2)?,
            settings,
        )?;
        output
            .f_narrow(0, row * length + start, length_here)?
            .f_copy_(&here)?;
        parts.push((row, start, saved));
    }
    let queries = queries.size();
    Ok((output, Saved::Documents { queries, parts }))
}

/// As [`attention::backward`].
pub fn backward(saved: &Saved, d_output: &Tensor) -> Result<Gradients> {
    let (queries, parts) = match saved {
        Saved::Whole(saved) => return attention::backward(saved, d_output),
        Saved::Documents { queries, parts } => (queries, parts),
    };
    let (batch, key_heads, length, head_dim) = (queries[0], queries[1], queries[3], queries[4]);
    let zeros = |shape: &[i64]| Tensor::f_zeros(shape, (d_output.f_kind()?, d_output.device()));
    let of_keys = [batch, key_heads, length, head_dim];
    let gradients = Gradients {
        queries: zeros(queries)?,
        keys: zeros(&of_keys)?,
        values: zeros(&of_keys)?,
    };
    for (row, start, saved) in parts {
        let length_here = saved.length();
        let d_here = d_output.f_narrow(0, row * length + start, length_here)?;
        let here = attention::backward(saved, &d_here)?;
        let put = |whole: &Tensor, part: &Tensor, axis: i64| {
            whole
                .f_narrow(0, *row, 1)?
                .f_narrow(axis, *start, length_here)?
                .f_copy_(part)
        };
        put(&gradients.queries, &here.queries, 3)?;
        put(&gradients.keys, &here.keys, 2)?;
        put(&gradients.values, &here.values, 2)?;
    }
    Ok(gradients)
}

/// Row, first token and length of every document.
fn places(documents: &[Vec<i64>]) -> impl Iterator<Item = (i64, i64, i64)> {
    documents.iter().zip(0..).flat_map(|(lengths, row)| {
        let mut start = 0;
        lengths.iter().map(move |length| {
            start += length;
            (row, start - length, *length)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::test_support::{assert_close, random};

    const LENGTH: i64 = 9;

    fn inputs() -> [Tensor; 3] {
        [
            random(&[2, 2, 3, LENGTH, 4], 1),
            random(&[2, 2, LENGTH, 4], 2),
            random(&[2, 2, LENGTH, 4], 3),
        ]
    }

    /// The output, and the gradients of its product with fixed random numbers.
    fn run([queries, keys, values]: [Tensor; 3], documents: &[Vec<i64>]) -> [Tensor; 4] {
        let settings = Settings {
            scale: 0.5,
            soft_cap: Some(2.0),
            window: Some(3),
            dropout: None,
        };
        let (output, saved) = forward(queries, keys, values, settings, Some(documents)).unwrap();
        let gradients = backward(&saved, &random(&output.size(), 4)).unwrap();
        [output, gradients.queries, gradients.keys, gradients.values]
    }

    #[test]
    fn rows_of_one_document_each_are_attended_to_as_a_whole() {
        let settings = Settings {
            scale: 0.5,
            soft_cap: Some(2.0),
            window: Some(3),
            dropout: None,
        };
        let [queries, keys, values] = inputs();
        let (expected, saved) = attention::forward(queries, keys, values, settings).unwrap();
        let gradients = attention::backward(&saved, &random(&expected.size(), 4)).unwrap();
        let ours = run(inputs(), &[vec![LENGTH], vec![LENGTH]]);
        let expected = [
            expected,
            gradients.queries,
            gradients.keys,
            gradients.values,
        ];
        for (ours, expected) in ours.iter().zip(&expected) {
            assert_close(ours, expected);
        }
    }

    #[test]
    fn a_document_neither_sees_another_nor_moves_its_gradients() {
        let documents = [vec![4, 5], vec![3, 2]];
        let before = run(inputs(), &documents);
        let changed = inputs();
        // The second document of the first row.
        for (tensor, axis) in changed.iter().zip([3, 2, 2]) {
            let mut part = tensor.narrow(0, 0, 1).narrow(axis, 4, 5);
            let _ = part.f_add_scalar_(1.0).unwrap();
        }
        let after = run(changed, &documents);
        let kept = |tensor: &Tensor, index: usize| match index {
            0 => Tensor::cat(
                &[tensor.narrow(0, 0, 4), tensor.narrow(0, LENGTH, LENGTH)],
                0,
            ),
            axis => {
                let axis = if axis == 1 { 3 } else { 2 };
                let first = tensor.narrow(0, 0, 1).narrow(axis, 0, 4);
                Tensor::cat(
                    &[first.flatten(0, -1), tensor.narrow(0, 1, 1).flatten(0, -1)],
                    0,
                )
            }
        };
        for (index, (before, after)) in before.iter().zip(&after).enumerate() {
            assert!(kept(before, index).equal(&kept(after, index)), "{index}");
            assert!(!before.equal(after), "{index}");
        }
    }

    #[test]
    fn padding_gets_zeros() {
        let [output, ..] = run(inputs(), &[vec![4, 5], vec![3, 2]]);
        let padding = output.narrow(0, LENGTH + 5, LENGTH - 5);
        assert!(padding.equal(&padding.zeros_like()));
    }
}
