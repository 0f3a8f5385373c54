//! Products of fp32 matrices that lie in the processor's caches: the inner loops of linear layers and of attention.
//!
//! The left matrix is read number by number, so that it may lie in any order, also transposed; rows of the right one and of the
//! result are read as lanes. A tile of some rows and up to four registers' columns of the result stays in registers while the inner
//! dimension is walked, in order: how a result is cut into tiles changes none of its bits. Cost: some nine tenths of the
//! processor's peak from an inner dimension of a hundred on.
#![expect(
    unsafe_code,
    reason = "the loops read matrices whose ends are checked once, before them"
)]
#![expect(
    clippy::needless_range_loop,
    reason = "of iterators here the compiler would make loops over memory, not registers"
)]

use super::lanes::Lanes;

/// A matrix of which number (i, k) lies at i · `row` + k · `column`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

/// A matrix whose rows are `stride` numbers apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Right<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) stride: usize,
}

/// What a product is written to, or added to: rows `stride` numbers apart.
pub(crate) struct Out<'a> {
    pub(crate) numbers: &'a mut [f32],
    pub(crate) stride: usize,
    /// Whether the product is added.
    pub(crate) adds: bool,
}

/// out (rows, columns) = left (rows, inner) · right (inner, columns), or += where it adds; the columns are a multiple of
/// [`Lanes::COUNT`].
#[inline(always)]
pub(crate) fn product<L: Lanes>(
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
    assert!(columns.is_multiple_of(L::COUNT), "{columns} columns");
    let mut column = 0;
    while column < columns {
        let place = Place {
            left,
            right: &right.numbers[column..],
            right_stride: right.stride,
            out: &mut out.numbers[column..],
            out_stride: out.stride,
            adds: out.adds,
            rows,
            inner,
        };
        let lanes = (columns - column) / L::COUNT;
        // SAFETY: all rows, the lanes' columns and the inner dimension lie within the matrices, by the assertions above.
        column += L::COUNT
            * unsafe {
                match lanes {
                    1 => place.columns::<L, 1>(),
                    2 => place.columns::<L, 2>(),
                    4 => place.columns::<L, 4>(),
                    _ => place.columns::<L, 3>(),
                }
            };
    }
}

/// Some columns of the result and what they come from.
struct Place<'a> {
    left: Left<'a>,
    right: &'a [f32],
    right_stride: usize,
    out: &'a mut [f32],
    out_stride: usize,
    adds: bool,
    rows: usize,
    inner: usize,
}

impl Place<'_> {
    /// Computes all rows of `C` lanes of columns, in tiles that fill the registers; returns C.
    ///
    /// # Safety
    ///
    /// (rows, inner) numbers of `left`, `inner` rows of C lanes of `right` and as many rows of `out` lie within the slices.
    #[inline(always)]
    unsafe fn columns<L: Lanes, const C: usize>(mut self) -> usize {
        let mut row = 0;
        // SAFETY: the caller's promise; no tile goes past the last row.
        unsafe {
            // 32 registers hold 24 sums and what they are made of, 16 registers 12.
            if L::COUNT == 16 {
                match C {
                    1 => self.tiles::<L, C, 16>(&mut row),
                    2 => self.tiles::<L, C, 12>(&mut row),
                    3 => self.tiles::<L, C, 8>(&mut row),
                    _ => self.tiles::<L, C, 6>(&mut row),
                }
            }
            match C {
                1 => self.tiles::<L, C, 8>(&mut row),
                2 => self.tiles::<L, C, 6>(&mut row),
                3 => self.tiles::<L, C, 4>(&mut row),
                _ => self.tiles::<L, C, 3>(&mut row),
            }
            self.tiles::<L, C, 2>(&mut row);
            self.tiles::<L, C, 1>(&mut row);
        }
        C
    }

    /// As many tiles of `R` rows as there are rows left for.
    ///
    /// # Safety
    ///
    /// As for [`Self::columns`].
    #[inline(always)]
    unsafe fn tiles<L: Lanes, const C: usize, const R: usize>(&mut self, row: &mut usize) {
        while self.rows - *row >= R {
            // SAFETY: the caller's promise; so many rows are left.
            unsafe { self.tile::<L, C, R>(*row) };
            *row += R;
        }
    }

    /// Computes `R` rows from `row` on.
    ///
    /// # Safety
    ///
    /// As for [`Self::columns`].
    #[inline(always)]
    unsafe fn tile<L: Lanes, const C: usize, const R: usize>(&mut self, row: usize) {
        let right = self.right.as_ptr();
        let mut sums = [[L::splat(0.0); C]; R];
        // SAFETY: the caller's promise, for every place below.
        unsafe {
            let left = self.left.numbers.as_ptr().add(row * self.left.row);
            let out = self.out.as_mut_ptr().add(row * self.out_stride);
            if self.adds {
                for row in 0..R {
                    for lane in 0..C {
                        sums[row][lane] = L::load(out.add(row * self.out_stride + lane * L::COUNT));
                    }
                }
            }
            for inner in 0..self.inner {
                let from = right.add(inner * self.right_stride);
                let mut numbers = [L::splat(0.0); C];
                for lane in 0..C {
                    numbers[lane] = L::load(from.add(lane * L::COUNT));
                }
                let left = left.add(inner * self.left.column);
                for row in 0..R {
                    let factor = L::splat(left.add(row * self.left.row).read());
                    for lane in 0..C {
                        sums[row][lane] = factor.times_plus(numbers[lane], sums[row][lane]);
                    }
                }
            }
            for row in 0..R {
                for lane in 0..C {
                    sums[row][lane].store(out.add(row * self.out_stride + lane * L::COUNT));
                }
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
            rows in 1_usize..40,
            inner in 1_usize..20,
            columns in (1_usize..8).prop_map(|groups| 16 * groups),
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
