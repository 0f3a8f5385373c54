//! Products of small fp32 matrices that lie in the processor's caches: the inner loops of attention.
//!
//! The left matrix is read number by number, so that it may lie in any order, also transposed; rows of the right one and of the
//! result are read as lanes. A tile of six rows and two registers' columns of the result stays in registers while the inner dimension is walked,
//! in order. Cost: near the processor's peak from an inner dimension of some twenty on.
#![expect(
    unsafe_code,
    reason = "the loops read matrices whose ends are checked once, before them"
)]

use super::lanes::Lanes;

/// Rows of a tile.
const ROWS: usize = 6;

/// A matrix of which number (i, k) lies at i · `row` + k · `column`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// A matrix whose rows are `stride` numbers apart.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) stride: usize,
}

/// What a product is written to, or added to: rows `stride` numbers apart.
pub(super) struct Out<'a> {
    pub(super) numbers: &'a mut [f32],
    pub(super) stride: usize,
    /// Whether the product is added.
    pub(super) adds: bool,
}

/// The columns that a product is computed for at a time: what a number of columns is rounded up to.
pub(super) const fn columns_step<L: Lanes>() -> usize {
    2 * L::COUNT
}

/// out (rows, columns) = left (rows, inner) · right (inner, columns), or += where it adds; the columns are a multiple of
/// [`columns_step`].
#[inline(always)]
pub(super) fn product<L: Lanes>(
    left: Left<'_>,
    right: Right<'_>,
    out: &mut Out<'_>,
    (rows, inner, columns): (usize, usize, usize),
) {
    if rows == 0 || inner == 0 || columns == 0 {
        return;
    }
    let last_of_left = (rows - 1) * left.row + (inner - 1) * left.column;
    assert!(
        last_of_left < left.numbers.len(),
        "the left matrix is short"
    );
    let end_of_right = (inner - 1) * right.stride + columns;
    assert!(
        end_of_right <= right.numbers.len(),
        "the right matrix is short"
    );
    let end_of_out = (rows - 1) * out.stride + columns;
    assert!(end_of_out <= out.numbers.len(), "the result is short");
    assert!(
        columns.is_multiple_of(columns_step::<L>()),
        "{columns} columns"
    );
    for column in (0..columns).step_by(columns_step::<L>()) {
        for row in (0..rows).step_by(ROWS) {
            let tile = Tile {
                left: &left.numbers[row * left.row..],
                left_strides: (left.row, left.column),
                right: &right.numbers[column..],
                right_stride: right.stride,
                inner,
                out: &mut out.numbers[row * out.stride + column..],
                out_stride: out.stride,
                adds: out.adds,
            };
            // SAFETY: the tile's rows, its columns and the inner dimension lie within the matrices, by the assertions above.
            unsafe {
                match rows - row {
                    1 => tile.run::<L, 1>(),
                    2 => tile.run::<L, 2>(),
                    3 => tile.run::<L, 3>(),
                    4 => tile.run::<L, 4>(),
                    5 => tile.run::<L, 5>(),
                    _ => tile.run::<L, ROWS>(),
                }
            }
        }
    }
}

/// A part of the result and what it comes from.
struct Tile<'a> {
    left: &'a [f32],
    left_strides: (usize, usize),
    right: &'a [f32],
    right_stride: usize,
    inner: usize,
    out: &'a mut [f32],
    out_stride: usize,
    adds: bool,
}

impl Tile<'_> {
    /// Computes `R` rows and two lanes of columns.
    ///
    /// # Safety
    ///
    /// (R, inner) numbers of `left`, `inner` rows of two lanes of `right` and R such rows of `out` lie within the slices.
    #[inline(always)]
    unsafe fn run<L: Lanes, const R: usize>(self) {
        let (left, right, out) = (
            self.left.as_ptr(),
            self.right.as_ptr(),
            self.out.as_mut_ptr(),
        );
        let (left_row, left_column) = self.left_strides;
        let mut sums = [[L::splat(0.0); 2]; R];
        // SAFETY: the caller's promise, for every place below.
        unsafe {
            if self.adds {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let from = out.add(row * self.out_stride);
                    *sums = [L::load(from), L::load(from.add(L::COUNT))];
                }
            }
            for inner in 0..self.inner {
                let from = right.add(inner * self.right_stride);
                let (first, second) = (L::load(from), L::load(from.add(L::COUNT)));
                let left = left.add(inner * left_column);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let factor = L::splat(left.add(row * left_row).read());
                    sums[0] = factor.times_plus(first, sums[0]);
                    sums[1] = factor.times_plus(second, sums[1]);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                let to = out.add(row * self.out_stride);
                sums[0].store(to);
                sums[1].store(to.add(L::COUNT));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lanes::{LanesKernel, Portable, run};
    use super::*;

    struct Products<'a> {
        /// (rows, inner), and its transposed.
        left: [&'a [f32]; 2],
        right: &'a [f32],
        out: [&'a mut [f32]; 2],
        size: (usize, usize, usize),
    }

    impl LanesKernel for Products<'_> {
        #[inline(always)]
        fn run<L: Lanes>(self) {
            let (rows, inner, columns) = self.size;
            let right = Right {
                numbers: self.right,
                stride: columns,
            };
            let strides = [(inner, 1), (1, rows)];
            for (((numbers, (row, column)), out), adds) in self
                .left
                .into_iter()
                .zip(strides)
                .zip(self.out)
                .zip([false, true])
            {
                let left = Left {
                    numbers,
                    row,
                    column,
                };
                let mut out = Out {
                    numbers: out,
                    stride: columns,
                    adds,
                };
                product::<L>(left, right, &mut out, self.size);
            }
        }
    }

    proptest! {
        #[test]
        fn a_product_of_small_whole_numbers_is_exact_in_every_shape_and_order(
            rows in 1_usize..20,
            inner in 1_usize..20,
            columns in (1_usize..3).prop_map(|groups| 32 * groups),
            seed in 0_u32..1000,
        ) {
            let number = |index: usize| ((index as u32 * 31 + seed) % 17) as f32 - 8.0;
            let left: Vec<f32> = (0..rows * inner).map(number).collect();
            let right: Vec<f32> = (0..inner * columns).map(|index| number(index + 7)).collect();
            let transposed: Vec<f32> = (0..rows * inner)
                .map(|index| left[index % rows * inner + index / rows])
                .collect();
            let expected = |added: f32| -> Vec<f32> {
                let one = |index: usize| {
                    let (row, column) = (index / columns, index % columns);
                    let terms = (0..inner).map(|k| left[row * inner + k] * right[k * columns + column]);
                    added + terms.sum::<f32>()
                };
                (0..rows * columns).map(one).collect()
            };
            for widest in [true, false] {
                let (mut fresh, mut added) = (vec![f32::NAN; rows * columns], vec![5.0; rows * columns]);
                let products = Products {
                    left: [&left, &transposed],
                    right: &right,
                    out: [&mut fresh, &mut added],
                    size: (rows, inner, columns),
                };
                match widest {
                    true => run(products),
                    false => products.run::<Portable>(),
                }
                prop_assert_eq!(&fresh, &expected(0.0));
                prop_assert_eq!(&added, &expected(5.0));
            }
        }
    }
}
