//! Products of small whole numbers, whose sums are exact.

use std::ops::Range;

use half::bf16;
use proptest::prelude::*;

use super::panel::{Matrix, Numbers, Right};
use super::*;
use crate::ops::cpu::brgemm;
use crate::ops::cpu::memory::Shared;
use crate::ops::cpu::tile::Left;

/// Small whole numbers, with which every sum is exact.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|index| ((index * 31 + seed) % 17) as f32 - 8.0)
        .collect()
}

/// Which products are computed.
#[derive(Clone, Debug)]
struct Shape {
    rows: usize,
    /// Of each term: the inner dimension, the rows of the result that it is a part of, and whether its right matrix is one transposed.
    terms: Vec<(usize, Range<usize>, bool)>,
    columns: usize,
    adds: bool,
    transposed_out: bool,
}

fn shapes() -> impl Strategy<Value = Shape> {
    (1_usize..130, 1_usize..120).prop_flat_map(|(rows, columns)| {
        let term = (1_usize..40, 0..rows, 1..=rows, any::<bool>());
        let term = term.prop_map(|(inner, start, end, transposed)| {
            (inner, start.min(end - 1)..end, transposed)
        });
        (
            prop::collection::vec(term, 0..4),
            any::<bool>(),
            any::<bool>(),
        )
            .prop_map(move |(terms, adds, transposed_out)| Shape {
                rows,
                terms,
                columns,
                adds,
                transposed_out,
            })
    })
}

proptest! {
    #[test]
    fn a_sum_of_products_is_exact_whatever_its_terms_and_shapes(shape in shapes()) {
        let Shape { rows, terms, columns, adds, transposed_out } = shape;
        let place = |row: usize, column: usize| match transposed_out {
            true => column * rows + row,
            false => row * columns + column,
        };
        let bias = numbers(columns, 3);
        let mut expected = vec![0.0; rows * columns];
        let data: Vec<_> = terms
            .iter()
            .map(|(inner, of, _)| (numbers(of.len() * inner, 5), numbers(inner * columns, 7)))
            .collect();
        for row in 0..rows {
            for column in 0..columns {
                let mut sum = 0.0;
                for ((inner, of, transposed), (left, right)) in terms.iter().zip(&data) {
                    if of.contains(&row) {
                        for k in 0..*inner {
                            let right = match transposed {
                                true => right[column * inner + k],
                                false => right[k * columns + column],
                            };
                            sum += left[(row - of.start) * inner + k] * right;
                        }
                    }
                }
                let before = if adds { 1.0 } else { 0.0 };
                expected[place(row, column)] = before + 0.5 * sum + bias[column];
            }
        }
        let mut found = vec![1.0; rows * columns];
        let terms = terms.iter().zip(&data).map(|((inner, of, transposed), (left, right))| Term {
            rows: of.clone(),
            left: TermLeft::Float(Left { numbers: left, row: *inner, column: 1 }),
            inner: *inner,
            right: Right {
                matrix: Matrix {
                    numbers: Numbers::Float(right),
                    width: if *transposed { *inner } else { columns },
                    rounded: false,
                },
                transposed: *transposed,
            },
        });
        run(&[Product {
            terms: terms.collect(),
            rows,
            columns,
            out: Out {
                numbers: OutNumbers::Float(Shared::new(&mut found)),
                row: if transposed_out { 1 } else { columns },
                column: if transposed_out { rows } else { 1 },
                factor: 0.5,
                bias: Some(&bias),
                adds,
            },
        }]);
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn rows_of_bfloat16_times_a_matrix_in_any_form_are_exact_by_the_processors_kernel() {
    if !brgemm::is_usable() {
        return;
    }
    for (rows, inner, columns) in [(16, 32, 16), (50, 96, 40), (130, 2080, 200), (64, 576, 64)] {
        for transposed in [false, true] {
            let (left, right) = (numbers(rows * inner, 5), numbers(inner * columns, 7));
            let place = |k: usize, column: usize| match transposed {
                true => column * inner + k,
                false => k * columns + column,
            };
            let added = numbers(rows * columns, 3);
            let expected: Vec<f32> = (0..rows * columns)
                .map(|index| {
                    let (row, column) = (index / columns, index % columns);
                    let terms = (0..inner).map(|k| left[row * inner + k] * right[place(k, column)]);
                    // The second term, with one inner row of ones, adds a number to each row.
                    terms.sum::<f32>() + added[row]
                })
                .collect();
            let brain: Vec<bf16> = left.iter().map(|number| bf16::from_f32(*number)).collect();
            let ones = vec![1.0; columns];
            let matrix = |numbers, width| Matrix {
                numbers: Numbers::Float(numbers),
                width,
                rounded: false,
            };
            let mut found = vec![f32::NAN; rows * columns];
            run(&[Product {
                terms: vec![
                    Term {
                        rows: 0..rows,
                        left: TermLeft::Brain(&brain),
                        inner,
                        right: Right {
                            matrix: matrix(&right, if transposed { inner } else { columns }),
                            transposed,
                        },
                    },
                    Term {
                        rows: 0..rows,
                        left: TermLeft::Float(Left {
                            numbers: &added,
                            row: 1,
                            column: 1,
                        }),
                        inner: 1,
                        right: matrix(&ones, columns).direct(),
                    },
                ],
                rows,
                columns,
                out: Out {
                    numbers: OutNumbers::Float(Shared::new(&mut found)),
                    row: columns,
                    column: 1,
                    factor: 1.0,
                    bias: None,
                    adds: false,
                },
            }]);
            assert_eq!(found, expected, "{rows} {inner} {columns} {transposed}");
        }
    }
}
