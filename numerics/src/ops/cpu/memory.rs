//! Rust slices over the memory of libtorch tensors, for loops that libtorch has no single operation for.
//!
//! The only place of the numeric core that turns libtorch's pointers into references. A slice lives as long as the borrow of its
//! tensor. To be written, only memory is lent that nobody else can reach meanwhile: that of a tensor which an operation has just
//! made, or has been given to write over, and the flat parameters, by `&mut`. Views of these are never lent so: a gradient is
//! added to through libtorch (see `trained`).
#![expect(
    clippy::needless_range_loop,
    reason = "of iterators here the compiler would make calls without the instructions"
)]

use std::marker::PhantomData;

use half::bf16;
use tch::{Device, Kind, Tensor};

use crate::ops::{Error, Result};

/// A type of activations.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// libtorch's name of it.
    const KIND: Kind;

    /// Its value in fp32, exact.
    fn widen(self) -> f32;

    /// The nearest value, ties to even.
    fn round(value: f32) -> Self;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn round(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    const KIND: Kind = Kind::BFloat16;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Without the branch for NaN of `bf16::from_f32`, so that loops vectorise; a quiet NaN stays one.
    #[inline(always)]
    fn round(value: f32) -> Self {
        let bits = value.to_bits();
        let even = (bits >> 16) & 1;
        Self::from_bits((bits.wrapping_add(0x7fff + even) >> 16) as u16)
    }
}

/// The elements of a contiguous tensor on the CPU.
pub(crate) fn slice<T: Element>(tensor: &Tensor) -> Result<&[T]> {
    let length = check(tensor, T::KIND)?;
    // SAFETY: `check` saw a contiguous CPU tensor of `length` elements of T's kind; the borrow keeps its storage alive. `bf16` is a
    // transparent u16, as libtorch's own.
    #[expect(unsafe_code, reason = "libtorch hands out a raw pointer")]
    let slice = unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), length) };
    Ok(slice)
}

/// The elements of a contiguous tensor on the CPU, to be written. The tensor must be the only way to its memory for as long as
/// the slice lives; see the head of this file.
pub(crate) fn slice_mut<T: Element>(tensor: &mut Tensor) -> Result<&mut [T]> {
    let length = check(tensor, T::KIND)?;
    // SAFETY: as above; the exclusive borrow of the tensor is the caller's claim to its memory.
    #[expect(unsafe_code, reason = "libtorch hands out a raw pointer")]
    let slice = unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), length) };
    Ok(slice)
}

/// A slice that several threads write at places of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: the numbers are lent for `'a` to whoever holds this; which thread writes which is the business of `write`'s callers.
#[expect(unsafe_code, reason = "a pointer that threads share")]
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a pointer that threads share")]
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T: Element> Shared<'a, T> {
    /// All of the slice.
    pub(crate) const fn new(numbers: &'a mut [T]) -> Self {
        Self {
            start: numbers.as_mut_ptr(),
            length: numbers.len(),
            lent: PhantomData,
        }
    }

    /// `length` numbers from `start` on, that are not a Rust slice elsewhere for as long as this lives.
    ///
    /// # Safety
    ///
    /// The numbers can be read and written for `'a`, and nobody but holders of copies of this does so.
    #[expect(unsafe_code, reason = "a pointer of libtorch")]
    pub(crate) const unsafe fn from_raw(start: *mut T, length: usize) -> Self {
        Self {
            start,
            length,
            lent: PhantomData,
        }
    }

    /// Writes sums to a row of places `column` numbers apart, from `start` on, or adds them.
    ///
    /// # Safety
    ///
    /// No other thread reads or writes these places meanwhile.
    #[inline(always)]
    #[expect(unsafe_code, reason = "threads write to places between each other's")]
    pub(crate) unsafe fn write(&self, start: usize, column: usize, sums: &[f32], adds: bool) {
        let last = start + sums.len().saturating_sub(1) * column;
        assert!(last < self.length, "the result is short");
        for index in 0..sums.len() {
            // SAFETY: the place is within the slice, as just asked, and this thread's alone.
            unsafe {
                let place = self.start.add(start + index * column);
                let sum = match adds {
                    true => place.read().widen() + sums[index],
                    false => sums[index],
                };
                place.write(T::round(sum));
            }
        }
    }
}

/// A tensor (B, heads, T, D) on the CPU whose rows of D numbers lie anywhere, as it is read.
#[derive(Debug)]
pub(crate) struct Planes<'a, T> {
    numbers: &'a [T],
    /// From one row of the batch, one head and one token to the next.
    strides: [usize; 3],
    width: usize,
}

impl<T> Clone for Planes<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Planes<'_, T> {}

impl<'a, T: Element> Planes<'a, T> {
    /// The numbers of the tensor, wherever its strides say that they lie; only those of a row must be next to each other.
    pub(crate) fn new(tensor: &'a Tensor) -> Result<Self> {
        let (size, strides) = (tensor.size(), tensor.stride());
        let (&[batch, heads, rows, width], &[of_batch, of_heads, of_rows, 1]) =
            (&size[..], &strides[..])
        else {
            return Err(Error::Libtorch(format!(
                "expected a tensor (B, heads, T, D) with whole rows, got {tensor:?} with strides {strides:?}"
            )));
        };
        check_place(tensor, T::KIND)?;
        let last = (batch - 1) * of_batch + (heads - 1) * of_heads + (rows - 1) * of_rows;
        // SAFETY: `check_place` saw a CPU tensor with elements of T's kind; its last element is the one at `last` + `width` - 1, so all
        // up to there belong to its storage, which the borrow keeps alive. Strides of libtorch are never negative.
        #[expect(unsafe_code, reason = "libtorch hands out a raw pointer")]
        let numbers = unsafe {
            std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), (last + width) as usize)
        };
        Ok(Self {
            numbers,
            strides: [of_batch, of_heads, of_rows].map(|stride| stride as usize),
            width: width as usize,
        })
    }

    /// One row of D numbers.
    #[inline(always)]
    pub(crate) fn row(&self, batch: usize, head: usize, row: usize) -> &'a [T] {
        let [of_batch, of_heads, of_rows] = self.strides;
        let start = batch * of_batch + head * of_heads + row * of_rows;
        &self.numbers[start..start + self.width]
    }
}

/// An uninitialised tensor, all of which the caller will write.
pub(crate) fn empty<T: Element>(shape: &[i64]) -> Result<Tensor> {
    Ok(Tensor::f_empty(shape, (T::KIND, Device::Cpu))?)
}

/// The number of elements, if the tensor's memory is a plain array of `kind`.
fn check(tensor: &Tensor, kind: Kind) -> Result<usize> {
    if !tensor.is_contiguous() {
        return Err(Error::Libtorch(format!(
            "expected a contiguous tensor, got {tensor:?}"
        )));
    }
    check_place(tensor, kind)?;
    Ok(tensor.numel())
}

/// Refuses a tensor that is not of `kind`, not on the CPU, or empty.
fn check_place(tensor: &Tensor, kind: Kind) -> Result<()> {
    if tensor.device() != Device::Cpu || tensor.f_kind()? != kind {
        return Err(Error::Libtorch(format!(
            "expected a {kind:?} tensor on the CPU, got {tensor:?}"
        )));
    }
    if tensor.numel() == 0 {
        return Err(Error::Libtorch(
            "expected a tensor with elements, got an empty one".to_owned(),
        ));
    }
    Ok(())
}
