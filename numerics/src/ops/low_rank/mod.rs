//! The adapter of a linear layer (Hu et al., 2021): s·B·A, with DoRA's magnitudes (Liu et al., 2024) where they are asked for. What
//! is made of it beside a layer's products, which `linear` makes.

mod cpu;

use std::cell::RefCell;

use half::bf16;
use tch::{Kind, Tensor};

use super::trained::{Gradient, Revision, WeightId};
use super::{Error, Result};

/// A low-rank adapter of one linear layer, as views of the flat fp32 parameters and gradients.
#[derive(Debug)]
pub struct LowRank {
    /// The full name of the module, by which its dropout is drawn.
    pub module: String,
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
    /// DoRA's magnitudes.
    pub magnitude: Option<Magnitude>,
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

impl LowRank {
    /// Refuses another weight (out, in) than those that A and B are for.
    pub(super) fn check(&self, (output, input): (i64, i64)) -> Result<()> {
        let (a, b) = (self.a.size2()?, self.b.size2()?);
        match (a.1, b.0, b.1) == (input, output, a.0) {
            true => Ok(()),
            false => Err(Error::Adapter(format!(
                "A of `{}` is {} x {} and B {} x {}, expected r x {input} and {output} x r",
                self.module, a.0, a.1, b.0, b.1
            ))),
        }
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

    /// The norms of the rows, computed once for each weight and each change of A and B: they cost a product with all of W.
    pub(super) fn known_norms(
        &self,
        magnitude: &Magnitude,
        id: WeightId,
        weight: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let revision = self.revision.current();
        let mut known = magnitude.known.borrow_mut();
        if let Some(known) = &*known
            && (known.weight, known.revision) == (id, revision)
        {
            return Ok(known.norms.shallow_clone());
        }
        let norms = self.norms(&weight()?)?;
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
            Kind::BFloat16 => cpu::squares_of_rows::<bf16>(weight)?,
            Kind::Float => cpu::squares_of_rows::<f32>(weight)?,
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

#[cfg(test)]
mod tests {
    use super::super::linear::{self, Dense, Linear, RowBlock, Scratch, Weight};
    use super::super::test_support::{FLOAT, random};
    use super::*;

    /// A layer of W (6, 8) and an adapter on it of rank 2 with magnitudes, and what tells of changes of A and B.
    fn layer_and_adapter() -> (Linear, LowRank, Revision) {
        let dense = Dense {
            value: random(&[6, 8], 1),
            gradient: None,
        };
        let gradient = |shape: &[i64]| Gradient::alone(&Tensor::zeros(shape, FLOAT));
        let revision = Revision::default();
        let adapter = LowRank {
            module: "module".to_owned(),
            a: random(&[2, 8], 2),
            b: random(&[6, 2], 3),
            gradient_a: gradient(&[2, 8]),
            gradient_b: gradient(&[6, 2]),
            scaling: 0.5,
            revision: revision.clone(),
            magnitude: Some(Magnitude {
                value: random(&[6], 4),
                gradient: gradient(&[6]),
                known: RefCell::default(),
            }),
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
            let block = RowBlock {
                rows: 3,
                adapters: vec![Some(adapter)],
                dropout: None,
            };
            let (mut ys, _) = linear::forward(&[layer], &x, &[block], &mut scratch).unwrap();
            (ys.remove(0), COMPUTED.get() - start)
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
