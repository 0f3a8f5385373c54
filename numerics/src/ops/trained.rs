//! What operations need of that which is trained: gradients that they add to, and whether a value has changed.
//!
//! Gradients are views of one flat buffer. Operations reach them through libtorch only and never as a Rust slice: a slice
//! claims its memory for itself, and several views of that buffer live at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use super::Result;
use super::cpu::memory::Shared;

/// Gradients of many tensors in one flat fp32 buffer. It is made of zeros when it is first asked for: what is only served has none.
#[derive(Debug)]
pub struct FlatGradients {
    length: usize,
    made: Mutex<Option<Tensor>>,
}

impl FlatGradients {
    /// Of so many numbers.
    pub fn new(length: usize) -> Arc<Self> {
        Arc::new(Self {
            length,
            made: Mutex::new(None),
        })
    }

    /// The buffer (length); it stays the same.
    pub fn tensor(&self) -> Result<Tensor> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tensor) = &*made {
            return Ok(tensor.shallow_clone());
        }
        let zeros = Tensor::f_zeros([self.length as i64], (Kind::Float, Device::Cpu))?;
        Ok(made.insert(zeros).shallow_clone())
    }

    /// Whether it is there.
    pub fn is_made(&self) -> bool {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.is_some()
    }
}

/// The gradient of something that is trained, in fp32. It can be added to and not be read here.
#[derive(Debug)]
pub struct Gradient {
    flat: Arc<FlatGradients>,
    offset: i64,
    shape: Vec<i64>,
}

impl Gradient {
    /// That of the tensor of this shape whose numbers begin at `offset` of the buffer.
    pub const fn new(flat: Arc<FlatGradients>, offset: usize, shape: Vec<i64>) -> Self {
        Self {
            flat,
            offset: offset as i64,
            shape,
        }
    }

    /// For tests: that which lies in a tensor of its own.
    #[cfg(test)]
    pub(crate) fn alone(tensor: &Tensor) -> Self {
        let flat = FlatGradients::new(tensor.numel());
        *flat.made.lock().unwrap() = Some(tensor.view([-1]));
        Self::new(flat, 0, tensor.size())
    }

    fn view(&self) -> Result<Tensor> {
        let length = self.shape.iter().product::<i64>();
        let flat = self.flat.tensor()?;
        Ok(flat
            .f_narrow(0, self.offset, length)?
            .f_view(&self.shape[..])?)
    }

    /// += part, of the gradient's shape.
    pub(crate) fn add(&self, part: &Tensor) -> Result<()> {
        let _ = self.view()?.f_add_(part)?;
        Ok(())
    }

    /// += left·right.
    pub(super) fn add_product(&self, left: &Tensor, right: &Tensor) -> Result<()> {
        if left.f_kind()? == Kind::Float {
            let _ = self.view()?.f_addmm_(left, right)?;
            return Ok(());
        }
        self.add(&left.f_mm(right)?)
    }

    /// Its place (rows, columns), contiguous, for loops that add to it. They write through it while nobody else does.
    pub(super) fn place(&self) -> Result<Shared<'_, f32>> {
        let view = self.view()?;
        // SAFETY: the buffer is contiguous, has so many numbers from there on, and is alive and in its place for as long as this holds
        // it. They are no Rust slice meanwhile: slices of all gradients are lent by `&mut Parameters` only, and no pass runs then.
        #[expect(unsafe_code, reason = "libtorch hands out a raw pointer")]
        let place = unsafe { Shared::from_raw(view.data_ptr().cast(), view.numel()) };
        Ok(place)
    }

    /// For tests: adds it to a tensor.
    #[cfg(test)]
    pub(super) fn add_to(&self, sum: &Tensor) {
        let _ = sum.shallow_clone().f_add_(&self.view().unwrap()).unwrap();
    }

    pub(super) fn size(&self) -> Vec<i64> {
        self.shape.clone()
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
