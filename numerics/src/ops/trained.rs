//! What operations need of that which is trained: gradients that they add to, and whether a value has changed.
//!
//! Gradients are views of one flat buffer. Operations reach them through libtorch only and never as a Rust slice: a slice
//! claims its memory for itself, and several views of that buffer live at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tch::{Kind, Tensor};

use super::cpu::memory::Shared;
use super::{Error, Result};

/// The gradient of something that is trained, in fp32. It can be added to and not be read here.
#[derive(Debug)]
pub struct Gradient(Tensor);

impl Gradient {
    /// That which lies in `view`.
    pub const fn new(view: Tensor) -> Self {
        Self(view)
    }

    /// += part, of the gradient's shape.
    pub(super) fn add(&self, part: &Tensor) -> Result<()> {
        let _ = self.0.shallow_clone().f_add_(part)?;
        Ok(())
    }

    /// += left·right.
    pub(super) fn add_product(&self, left: &Tensor, right: &Tensor) -> Result<()> {
        if left.f_kind()? == Kind::Float {
            let _ = self.0.shallow_clone().f_addmm_(left, right)?;
            return Ok(());
        }
        self.add(&left.f_mm(right)?)
    }

    /// Its place (rows, columns), contiguous, for loops that add to it. They write through it while nobody else does.
    pub(super) fn place(&self) -> Result<Shared<'_, f32>> {
        if self.0.f_kind()? != Kind::Float || !self.0.is_contiguous() {
            return Err(Error::Libtorch(format!(
                "expected a contiguous gradient in Float, got {:?}",
                self.0
            )));
        }
        // SAFETY: the tensor is alive for as long as it is borrowed and has so many numbers. They are no Rust slice meanwhile: slices
        // of all gradients are lent by `&mut Parameters` only, and no pass runs then.
        #[expect(unsafe_code, reason = "libtorch hands out a raw pointer")]
        let place = unsafe { Shared::from_raw(self.0.data_ptr().cast(), self.0.numel()) };
        Ok(place)
    }

    /// For tests: adds it to a tensor.
    #[cfg(test)]
    pub(super) fn add_to(&self, sum: &Tensor) {
        let _ = sum.shallow_clone().f_add_(&self.0).unwrap();
    }

    pub(super) fn size(&self) -> Vec<i64> {
        self.0.size()
    }
}

/// Tells whether values have been written since: what was computed from them at one revision holds as long as it is the same.
#[derive(Clone, Debug, Default)]
pub struct Revision(Arc<AtomicU64>);

impl Revision {
    /// Says that values are about to be written.
    pub fn advance(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The present one.
    pub fn current(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that no other fixed weight of this process has: the key of what was computed from it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WeightId(u64);

impl WeightId {
    /// The next one.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}
