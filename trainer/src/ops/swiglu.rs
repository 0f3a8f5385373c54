//! The gated activation silu(gate) · up (Shazeer, 2020), in fp32 whatever the type of the activations.

use half::bf16;
use tch::{Kind, Tensor};

use super::kernel::{self, Kernel, exp};
use super::memory::{self, Element, slice, slice_mut};
use super::{Error, Result};

/// What the backward needs, each (M, intermediate).
#[derive(Debug)]
pub struct Saved {
    gate: Tensor,
    up: Tensor,
}

/// silu(gate) · up, all (M, intermediate).
pub fn forward(gate: Tensor, up: Tensor) -> Result<(Tensor, Saved)> {
    let y = match gate.f_kind()? {
        Kind::BFloat16 => forward_in::<bf16>(&gate, &up)?,
        Kind::Float => forward_in::<f32>(&gate, &up)?,
        other => return Err(unsupported(other)),
    };
    Ok((y, Saved { gate, up }))
}

/// The gradients for gate and up from that of the product.
pub fn backward(saved: &Saved, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    match dy.f_kind()? {
        Kind::BFloat16 => backward_in::<bf16>(saved, dy),
        Kind::Float => backward_in::<f32>(saved, dy),
        other => Err(unsupported(other)),
    }
}

fn unsupported(kind: Kind) -> Error {
    Error::Libtorch(format!(
        "an activation of {kind:?}, expected Float or BFloat16"
    ))
}

fn forward_in<T: Element>(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let mut y = memory::empty::<T>(&gate.size())?;
    let length = kernel::rows_per_thread(gate.numel(), 1);
    let parts = slice::<T>(gate)?
        .chunks(length)
        .zip(slice(up)?.chunks(length))
        .zip(slice_mut(&mut y)?.chunks_mut(length));
    kernel::run_all(
        parts
            .map(|((gate, up), y)| Forward { gate, up, y })
            .collect(),
    );
    Ok(y)
}

fn backward_in<T: Element>(saved: &Saved, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let (mut d_gate, mut d_up) = (
        memory::empty::<T>(&dy.size())?,
        memory::empty::<T>(&dy.size())?,
    );
    let length = kernel::rows_per_thread(dy.numel(), 1);
    let inputs = slice::<T>(&saved.gate)?
        .chunks(length)
        .zip(slice(&saved.up)?.chunks(length));
    let outputs = slice_mut(&mut d_gate)?
        .chunks_mut(length)
        .zip(slice_mut(&mut d_up)?.chunks_mut(length));
    let parts = inputs.zip(slice(dy)?.chunks(length)).zip(outputs);
    let parts = parts.map(|(((gate, up), dy), (d_gate, d_up))| Backward {
        gate,
        up,
        dy,
        d_gate,
        d_up,
    });
    kernel::run_all(parts.collect());
    Ok((d_gate, d_up))
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

struct Forward<'a, T> {
    gate: &'a [T],
    up: &'a [T],
    y: &'a mut [T],
}

impl<T: Element> Kernel for Forward<'_, T> {
    #[inline(always)]
    fn run(self) {
        for ((y, gate), up) in self.y.iter_mut().zip(self.gate).zip(self.up) {
            let gate = gate.widen();
            *y = T::round(gate * sigmoid(gate) * up.widen());
        }
    }
}

struct Backward<'a, T> {
    gate: &'a [T],
    up: &'a [T],
    dy: &'a [T],
    d_gate: &'a mut [T],
    d_up: &'a mut [T],
}

impl<T: Element> Kernel for Backward<'_, T> {
    #[inline(always)]
    fn run(self) {
        let inputs = self.gate.iter().zip(self.up).zip(self.dy);
        let outputs = self.d_gate.iter_mut().zip(self.d_up);
        for (((gate, up), dy), (d_gate, d_up)) in inputs.zip(outputs) {
            let (gate, dy) = (gate.widen(), dy.widen());
            let sigmoid = sigmoid(gate);
            *d_up = T::round(dy * gate * sigmoid);
            // silu' = sigmoid · (1 + gate · (1 - sigmoid))
            *d_gate = T::round(dy * up.widen() * sigmoid * (1.0 + gate * (1.0 - sigmoid)));
        }
    }
}
