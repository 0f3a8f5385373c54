//! Rust slices over the memory of libtorch tensors, for loops that libtorch has no operation for.
//!
//! The only place of the numeric core that touches raw pointers. A slice lives as long as the borrow of its tensor; that no
//! other tensor writes the same memory meanwhile is up to the caller, which runs operations one after the other.

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::{Error, Result};

/// The elements of a contiguous fp32 tensor on the CPU.
pub(crate) fn float_slice(tensor: &Tensor) -> Result<&[f32]> {
    let length = check(tensor, Kind::Float)?;
    // SAFETY: `check` saw a contiguous fp32 CPU tensor of `length` elements; the borrow keeps its storage alive.
    #[expect(unsafe_code, reason = "libtorch hands out a raw pointer")]
    let slice = unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), length) };
    Ok(slice)
}

/// The elements of a contiguous fp32 tensor on the CPU, to be written.
pub(crate) fn float_slice_mut(tensor: &mut Tensor) -> Result<&mut [f32]> {
    let length = check(tensor, Kind::Float)?;
    // SAFETY: as above; the exclusive borrow of the tensor is the caller's claim to its memory.
    #[expect(unsafe_code, reason = "libtorch hands out a raw pointer")]
    let slice = unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), length) };
    Ok(slice)
}

/// The elements of a contiguous bf16 tensor on the CPU, to be written.
pub(crate) fn bfloat16_slice_mut(tensor: &mut Tensor) -> Result<&mut [bf16]> {
    let length = check(tensor, Kind::BFloat16)?;
    // SAFETY: as above; `bf16` is a transparent u16, as libtorch's own.
    #[expect(unsafe_code, reason = "libtorch hands out a raw pointer")]
    let slice = unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<bf16>(), length) };
    Ok(slice)
}

/// The number of elements, if the tensor's memory is a plain array of `kind`.
fn check(tensor: &Tensor, kind: Kind) -> Result<usize> {
    if tensor.device() != Device::Cpu || tensor.f_kind()? != kind || !tensor.is_contiguous() {
        return Err(Error::Libtorch(format!(
            "expected a contiguous {kind:?} tensor on the CPU, got {tensor:?}"
        )));
    }
    if tensor.numel() == 0 {
        return Err(Error::Libtorch(
            "expected a tensor with elements, got an empty one".to_owned(),
        ));
    }
    Ok(tensor.numel())
}
