//! The adapter of a linear layer: y += s·(x·Aᵀ)·Bᵀ (Hu et al., 2021), with DoRA's magnitudes (Liu et al., 2024) and dropout where
//! they are asked for.
//!
//! The adapter's part is computed first and the product with W is added to it, so that in bf16 the small update is rounded at
//! its own size and summed in the product's fp32 accumulator; rounding after the sum would lose it. Magnitudes act after
//! that sum, so in bf16 one shows once it is more than 2^-9 of itself off the norm of its row. The formulas of DoRA with and
//! without dropout are those of PEFT's `DoraLinearLayer`.

use std::cell::RefCell;

use half::bf16;
use tch::{Kind, Tensor};

use super::kernel::{self, Kernel};
use super::linear::{plus_product, with_weight};
use super::memory::{self, Element, slice, slice_mut};
use super::random::Dropout;
use super::trained::{Gradient, Revision, WeightId};
use super::{Error, Result};

/// A low-rank adapter of one linear layer, as views of the flat fp32 parameters and gradients.
#[derive(Debug)]
pub struct LowRank {
    /// A (r, in).
    pub a: Tensor,
    /// B (out, r).
    pub b: Tensor,
    /// The gradient of A, added to by every backward.
    pub gradient_a: Gradient,
    /// The gradient of B, added to by every backward.
    pub gradient_b: Gradient,
    /// s, PEFT's `scaling`.
    pub scaling: f64,
    /// When A and B were last written.
    pub revision: Revision,
    /// What was last made of A and B for the products of a pass.
    pub factors: RefCell<Option<KnownFactors>>,
    /// DoRA's magnitudes.
    pub magnitude: Option<Magnitude>,
    /// What is left out of the adapter's input, in training. The same from a pass's forward to its backward.
    pub dropout: Option<Dropout>,
}

/// m (out): with it, row i of the weight is m[i] · (W + s·B·A)[i] / ‖(W + s·B·A)[i]‖.
#[derive(Debug)]
pub struct Magnitude {
    /// m (out), in fp32, a view of the parameters.
    pub value: Tensor,
    /// Its gradient, added to by every backward.
    pub gradient: Gradient,
    /// The norms that were last computed.
    pub known: RefCell<Option<KnownNorms>>,
}

/// The norms of the rows of W + s·B·A (out), fp32, and of which W and which revision of A and B they are.
#[derive(Debug)]
pub struct KnownNorms {
    weight: WeightId,
    revision: u64,
    norms: Tensor,
}

/// A and B in bf16, and of which revision they are. They change once an optimiser step, and are used twice in each of its passes.
#[derive(Debug)]
pub struct KnownFactors {
    revision: u64,
    a: Factor,
    b: Factor,
}

/// What the backward of an adapted layer needs.
#[derive(Debug)]
pub struct Saved {
    /// s·x·Aᵀ (M, r), of the x that dropout left.
    inner: Tensor,
    dora: Option<SavedDora>,
}

/// What the backward of the magnitudes needs.
#[derive(Debug)]
struct SavedDora {
    /// x·(W + s·B·A)ᵀ (M, out), of the x that dropout left.
    product: Tensor,
    /// The norms of the rows of W + s·B·A (out), fp32.
    norms: Tensor,
}

impl LowRank {
    /// x (M, in) and W (out, in), a fixed one of this id, to y (M, out), without a bias.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        id: WeightId,
    ) -> Result<(Tensor, Saved)> {
        let kind = x.f_kind()?;
        let kept = self.kept(x)?;
        let (a, b) = self.factors(kind)?;
        let inner = a
            .inner(kept.as_ref().unwrap_or(x), true)?
            .f_mul_scalar_(self.scaling)?; // (M, r)
        let y = b.outer(&inner)?.f_mm(&b.value.f_tr()?)?; // (M, out)
        let Some(magnitude) = &self.magnitude else {
            let y = with_weight(Some(y), x, &weight.f_tr()?)?;
            return Ok((y, Saved { inner, dora: None }));
        };
        let norms = self.known_norms(magnitude, weight, id)?;
        let factor = magnitude.value.f_div(&norms)?; // (out)
        let (y, product) = if let Some(kept) = &kept {
            // Only what dropout left is rescaled: x·Wᵀ + (factor - 1)·kept·Wᵀ + factor·low.
            let mut y = y;
            let base = with_weight(None, kept, &weight.f_tr()?)?;
            let product = y.f_add_(&base)?;
            let y = scaled(&product, &factor)?.f_sub_(&base)?;
            (with_weight(Some(y), x, &weight.f_tr()?)?, product)
        } else {
            let product = with_weight(Some(y), x, &weight.f_tr()?)?;
            (scaled(&product, &factor)?, product)
        };
        let dora = Some(SavedDora { product, norms });
        Ok((y, Saved { inner, dora }))
    }

    /// The gradient for x (M, in) from that for y (M, out), added to `dx` if there is one. The gradients of A, B and the
    /// magnitudes are added to their own.
    pub(super) fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        dx: Option<Tensor>,
    ) -> Result<Tensor> {
        let kind = x.f_kind()?;
        let kept = self.kept(x)?;
        let factor = match (&self.magnitude, &saved.dora) {
            (Some(magnitude), Some(saved)) => {
                add_magnitude_gradient(magnitude, saved, dy)?;
                Some(magnitude.value.f_div(&saved.norms)?)
            }
            _ => None,
        };
        let d_product = match &factor {
            Some(factor) => scaled(dy, factor)?,
            None => dy.shallow_clone(),
        }; // (M, out)
        let (a, b) = self.factors(kind)?;
        let d_inner = b.inner(&d_product, false)?.f_mul_scalar_(self.scaling)?; // (M, r)
        self.gradient_b
            .add_product(&d_product.f_tr()?, &saved.inner)?;
        self.gradient_a
            .add_product(&d_inner.f_tr()?, kept.as_ref().unwrap_or(x))?;
        let d_inner = a.outer(&d_inner)?;
        let Some(dropout) = &self.dropout else {
            let dx = plus_product(dx, &d_inner, &a.value)?;
            return with_weight(Some(dx), &d_product, weight);
        };
        let mut d_kept = d_inner.f_mm(&a.value)?; // (M, in)
        if factor.is_some() {
            d_kept = with_weight(Some(d_kept), &d_product.f_sub(dy)?, weight)?;
        }
        let d_kept = dropout.apply(&d_kept)?;
        let dx = match dx {
            Some(mut dx) => dx.f_add_(&d_kept)?,
            None => d_kept,
        };
        with_weight(Some(dx), dy, weight)
    }

    /// A and B in the type of the activations.
    fn factors(&self, kind: Kind) -> Result<(Factor, Factor)> {
        let make =
            || -> Result<_> { Ok((Factor::of_a(&self.a, kind)?, Factor::of_b(&self.b, kind)?)) };
        if kind == Kind::Float {
            return make();
        }
        let revision = self.revision.current();
        let mut known = self.factors.borrow_mut();
        if let Some(known) = &*known
            && known.revision == revision
        {
            return Ok((known.a.shallow_clone(), known.b.shallow_clone()));
        }
        let (a, b) = make()?;
        *known = Some(KnownFactors {
            revision,
            a: a.shallow_clone(),
            b: b.shallow_clone(),
        });
        Ok((a, b))
    }

    /// W (out, in) with the adapter merged into it, in fp32: what base and adapter together multiply x by.
    pub(crate) fn merged(&self, weight: &Tensor) -> Result<Tensor> {
        let weight = weight.f_to_kind(Kind::Float)?;
        let update = self.b.f_mm(&self.a)?.f_mul_scalar_(self.scaling)?;
        let merged = weight.f_add(&update)?;
        let Some(magnitude) = &self.magnitude else {
            return Ok(merged);
        };
        let factor = magnitude.value.f_div(&self.norms(&weight)?)?;
        Ok(merged.f_mul(&factor.f_unsqueeze(1)?)?)
    }

    /// x as dropout leaves it, where there is dropout.
    fn kept(&self, x: &Tensor) -> Result<Option<Tensor>> {
        self.dropout
            .as_ref()
            .map(|dropout| dropout.apply(x))
            .transpose()
    }

    /// The norms of the rows, computed once for each weight and each change of A and B: they cost a product with all of W.
    fn known_norms(&self, magnitude: &Magnitude, weight: &Tensor, id: WeightId) -> Result<Tensor> {
        let revision = self.revision.current();
        let mut known = magnitude.known.borrow_mut();
        if let Some(known) = &*known
            && (known.weight, known.revision) == (id, revision)
        {
            return Ok(known.norms.shallow_clone());
        }
        let norms = self.norms(weight)?;
        *known = Some(KnownNorms {
            weight: id,
            revision,
            norms: norms.shallow_clone(),
        });
        Ok(norms)
    }

    /// The norms of the rows of W + s·B·A (out), fp32, for a weight (out, in) in the type of the activations.
    ///
    /// ‖w + s·bA‖² = ‖w‖² + 2·s·(wAᵀ)·b + s²·(bAAᵀ)·b: a sum of that size is never written out.
    pub(super) fn norms(&self, weight: &Tensor) -> Result<Tensor> {
        #[cfg(test)]
        COMPUTED.set(COMPUTED.get() + 1);
        let kind = weight.f_kind()?;
        let squares = match kind {
            Kind::BFloat16 => squares_of_rows::<bf16>(weight)?,
            Kind::Float => squares_of_rows::<f32>(weight)?,
            other => {
                return Err(Error::Libtorch(format!(
                    "a weight of {other:?}, expected Float or BFloat16"
                )));
            }
        }; // (out)
        let along_b = |product: &Tensor| -> Result<Tensor> {
            Ok(product
                .f_to_kind(Kind::Float)?
                .f_mul(&self.b)?
                .f_sum_dim_intlist(1, false, Kind::Float)?)
        };
        let cross = along_b(&weight.f_mm(&self.a.f_to_kind(kind)?.f_tr()?)?)?;
        let own = along_b(&self.b.f_mm(&self.a.f_mm(&self.a.f_tr()?)?)?)?;
        let sum = cross
            .f_mul_scalar(2.0 * self.scaling)?
            .f_add_(&own.f_mul_scalar(self.scaling * self.scaling)?)?
            .f_add_(&squares)?;
        // A row of zeros has norm 0, and its outputs are 0 whatever they are divided by.
        Ok(sum.f_clamp_min(f64::from(f32::MIN_POSITIVE))?.f_sqrt()?)
    }
}

#[cfg(test)]
thread_local! {
    /// How often norms were computed on this thread.
    static COMPUTED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A or B in the type of the activations. In bf16 as a sum of two, side by side along r: with one alone, a step that changes a
/// value by less than 2^-9 of itself would not be seen.
#[derive(Debug)]
struct Factor {
    /// A (r or 2·r, in), B (out, r or 2·r).
    value: Tensor,
    parts: i64,
}

impl Factor {
    fn shallow_clone(&self) -> Self {
        Self {
            value: self.value.shallow_clone(),
            parts: self.parts,
        }
    }

    fn of_a(a: &Tensor, kind: Kind) -> Result<Self> {
        let (rank, input) = a.size2()?;
        Self::of(a, kind, rank * input, &[2 * rank, input])
    }

    fn of_b(b: &Tensor, kind: Kind) -> Result<Self> {
        let (output, rank) = b.size2()?;
        Self::of(b, kind, rank, &[output, 2 * rank])
    }

    /// Behind each `width` numbers of the first part stand those of the second.
    fn of(matrix: &Tensor, kind: Kind, width: i64, shape: &[i64]) -> Result<Self> {
        if kind == Kind::Float {
            return Ok(Self {
                value: matrix.shallow_clone(),
                parts: 1,
            });
        }
        let mut value = memory::empty::<bf16>(shape)?;
        kernel::run(InTwo {
            matrix: slice::<f32>(&matrix.f_contiguous()?)?,
            width: width as usize,
            parts: slice_mut(&mut value)?,
        });
        Ok(Self { value, parts: 2 })
    }

    /// x·Aᵀ or, where the factor is B, dy·B: (M, r).
    fn inner(&self, x: &Tensor, transposed: bool) -> Result<Tensor> {
        let product = match transposed {
            true => x.f_mm(&self.value.f_tr()?)?,
            false => x.f_mm(&self.value)?,
        };
        if self.parts == 1 {
            return Ok(product);
        }
        let rank = product.size()[1] / 2;
        Ok(product
            .f_narrow(1, 0, rank)?
            .f_add(&product.f_narrow(1, rank, rank)?)?)
    }

    /// `inner` (M, r) as often as the factor has parts.
    fn outer(&self, inner: &Tensor) -> Result<Tensor> {
        Ok(match self.parts {
            1 => inner.shallow_clone(),
            _ => Tensor::f_cat(&[inner, inner], 1)?,
        })
    }
}

/// A matrix as the sum of two in bf16, the second what the first leaves over.
struct InTwo<'a> {
    matrix: &'a [f32],
    width: usize,
    parts: &'a mut [bf16],
}

impl Kernel for InTwo<'_> {
    #[inline(always)]
    fn run(self) {
        let rows = self.matrix.chunks_exact(self.width);
        for (row, parts) in rows.zip(self.parts.chunks_exact_mut(2 * self.width)) {
            let (first, second) = parts.split_at_mut(self.width);
            for ((value, first), second) in row.iter().zip(first).zip(second) {
                *first = <bf16 as Element>::round(*value);
                *second = <bf16 as Element>::round(value - first.widen());
            }
        }
    }
}

/// Each column of x (M, out) times its factor (out, fp32), in the type of x.
fn scaled(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    Ok(x.f_mul(factor)?.f_to_kind(x.f_kind()?)?)
}

/// The norms are constants here, as in the paper's section 4.3.
fn add_magnitude_gradient(magnitude: &Magnitude, saved: &SavedDora, dy: &Tensor) -> Result<()> {
    let along = dy
        .f_to_kind(Kind::Float)?
        .f_mul(&saved.product)?
        .f_sum_dim_intlist(0, false, Kind::Float)?
        .f_div_(&saved.norms)?;
    magnitude.gradient.add(&along)
}

/// The sums of squares of the rows of a weight (out, in), (out) in fp32.
fn squares_of_rows<T: Element>(weight: &Tensor) -> Result<Tensor> {
    let (rows, width) = weight.size2()?;
    let mut squares = memory::empty::<f32>(&[rows])?;
    let weight = weight.f_contiguous()?;
    let rows_here = kernel::rows_per_part(width as usize);
    let parts = slice::<T>(&weight)?
        .chunks(rows_here * width as usize)
        .zip(slice_mut::<f32>(&mut squares)?.chunks_mut(rows_here));
    let parts = parts.map(|(weight, squares)| Squares {
        weight,
        width: width as usize,
        squares,
    });
    kernel::run_all(parts.collect());
    Ok(squares)
}

struct Squares<'a, T> {
    weight: &'a [T],
    width: usize,
    squares: &'a mut [f32],
}

impl<T: Element> Kernel for Squares<'_, T> {
    #[inline(always)]
    fn run(self) {
        /// One chain of additions would not vectorise.
        const LANES: usize = 16;
        for (row, square) in self.weight.chunks_exact(self.width).zip(self.squares) {
            let mut sums = [0.0_f32; LANES];
            let (chunks, rest) = row.as_chunks::<LANES>();
            for chunk in chunks {
                for lane in 0..LANES {
                    let value = chunk[lane].widen();
                    sums[lane] += value * value;
                }
            }
            let rest: f32 = rest.iter().map(|x| x.widen() * x.widen()).sum();
            *square = sums.iter().sum::<f32>() + rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear::{Dense, Linear, Scratch, Weight};
    use super::super::test_support::{FLOAT, random};
    use super::*;

    /// A layer of W (6, 8) and an adapter on it of rank 2 with magnitudes, and what tells of changes of A and B.
    fn layer_and_adapter() -> (Linear, LowRank, Revision) {
        let dense = Dense {
            value: random(&[6, 8], 1),
            gradient: None,
        };
        let gradient = |shape: &[i64]| Gradient::new(Tensor::zeros(shape, FLOAT));
        let revision = Revision::default();
        let adapter = LowRank {
            a: random(&[2, 8], 2),
            b: random(&[6, 2], 3),
            gradient_a: gradient(&[2, 8]),
            gradient_b: gradient(&[6, 2]),
            scaling: 0.5,
            revision: revision.clone(),
            factors: RefCell::default(),
            magnitude: Some(Magnitude {
                value: random(&[6], 4),
                gradient: gradient(&[6]),
                known: RefCell::default(),
            }),
            dropout: None,
        };
        (Linear::new(Weight::Dense(dense), None), adapter, revision)
    }

    #[test]
    fn norms_of_rows_are_computed_once_for_each_weight_and_each_change_of_the_adapter() {
        let (layer, mut adapter, revision) = layer_and_adapter();
        let (other, ..) = layer_and_adapter();
        let mut scratch = Scratch::new(Kind::Float);
        let x = random(&[3, 8], 5);
        let start = COMPUTED.get();
        let mut forward = |layer: &Linear, adapter: &LowRank| {
            let (y, _) = layer.forward(&x, Some(adapter), &mut scratch).unwrap();
            (y, COMPUTED.get() - start)
        };
        let (first, _) = forward(&layer, &adapter);
        let (again, computed) = forward(&layer, &adapter);
        assert!(again.equal(&first));
        assert_eq!(computed, 1);

        // Magnitudes act behind the norms.
        let _ = adapter
            .magnitude
            .as_mut()
            .unwrap()
            .value
            .f_mul_scalar_(2.0)
            .unwrap();
        let (doubled, computed) = forward(&layer, &adapter);
        assert!((doubled - first * 2.0).abs().max().double_value(&[]) < 1e-5);
        assert_eq!(computed, 1);

        revision.advance();
        let _ = adapter.a.f_mul_scalar_(3.0).unwrap();
        let (changed, computed) = forward(&layer, &adapter);
        assert_eq!(computed, 2);
        *adapter.magnitude.as_ref().unwrap().known.borrow_mut() = None;
        assert!(forward(&layer, &adapter).0.equal(&changed));

        let computed = forward(&other, &adapter).1;
        assert_eq!(computed, 4, "another weight has norms of its own");
    }
}
