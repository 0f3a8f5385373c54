//! Gated activations on the CPU.

use tch::Tensor;

use super::SavedGate;
use crate::ops::Result;
use crate::ops::cpu::kernel::{self, Kernel, exp};
use crate::ops::cpu::memory::{self, Element, slice, slice_mut};

pub(super) fn forward<T: Element, F: Function>(
    function: F,
    gate: &Tensor,
    up: &Tensor,
) -> Result<Tensor> {
    let mut y = memory::empty::<T>(&gate.size())?;
    let length = kernel::rows_per_part(1);
    let parts = slice::<T>(gate)?
        .chunks(length)
        .zip(slice(up)?.chunks(length))
        .zip(slice_mut(&mut y)?.chunks_mut(length));
    kernel::run_all(
        parts
            .map(|((gate, up), y)| Forward {
                function,
                gate,
                up,
                y,
            })
            .collect(),
    );
    Ok(y)
}

pub(super) fn backward<T: Element, F: Function>(
    function: F,
    saved: &SavedGate,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (mut d_gate, mut d_up) = (
        memory::empty::<T>(&dy.size())?,
        memory::empty::<T>(&dy.size())?,
    );
    let length = kernel::rows_per_part(1);
    let inputs = slice::<T>(&saved.gate)?
        .chunks(length)
        .zip(slice(&saved.up)?.chunks(length));
    let outputs = slice_mut(&mut d_gate)?
        .chunks_mut(length)
        .zip(slice_mut(&mut d_up)?.chunks_mut(length));
    let parts = inputs.zip(slice(dy)?.chunks(length)).zip(outputs);
    let parts = parts.map(|(((gate, up), dy), (d_gate, d_up))| Backward {
        function,
        gate,
        up,
        dy,
        d_gate,
        d_up,
    });
    kernel::run_all(parts.collect());
    Ok((d_gate, d_up))
}

/// A smooth gate of the form x · share(x). Implementations are inlined into the loops.
pub(super) trait Function: Copy + Send {
    /// share(x), and its derivative.
    fn share(self, x: f32) -> (f32, f32);
}

#[derive(Clone, Copy)]
pub(super) struct Silu;

impl Function for Silu {
    #[inline(always)]
    fn share(self, x: f32) -> (f32, f32) {
        let sigmoid = sigmoid(x);
        (sigmoid, sigmoid * (1.0 - sigmoid))
    }
}

#[derive(Clone, Copy)]
pub(super) struct GeluTanh;

impl Function for GeluTanh {
    /// (1 + tanh(u)) / 2 = sigmoid(2u), u = sqrt(2/pi) · (x + 0.044715 x³).
    #[inline(always)]
    fn share(self, x: f32) -> (f32, f32) {
        /// 2 · sqrt(2/pi)
        const TWICE_ROOT: f32 = 1.595_769_1;
        const CUBIC: f32 = 0.044_715;
        let square = x * x;
        let sigmoid = sigmoid(TWICE_ROOT * x * (1.0 + CUBIC * square));
        let slope = TWICE_ROOT * (1.0 + 3.0 * CUBIC * square);
        (sigmoid, sigmoid * (1.0 - sigmoid) * slope)
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

struct Forward<'a, T, F> {
    function: F,
    gate: &'a [T],
    up: &'a [T],
    y: &'a mut [T],
}

impl<T: Element, F: Function> Kernel for Forward<'_, T, F> {
    #[inline(always)]
    fn run(self) {
        for ((y, gate), up) in self.y.iter_mut().zip(self.gate).zip(self.up) {
            let gate = gate.widen();
            *y = T::round(gate * self.function.share(gate).0 * up.widen());
        }
    }
}

struct Backward<'a, T, F> {
    function: F,
    gate: &'a [T],
    up: &'a [T],
    dy: &'a [T],
    d_gate: &'a mut [T],
    d_up: &'a mut [T],
}

impl<T: Element, F: Function> Kernel for Backward<'_, T, F> {
    #[inline(always)]
    fn run(self) {
        let inputs = self.gate.iter().zip(self.up).zip(self.dy);
        let outputs = self.d_gate.iter_mut().zip(self.d_up);
        for (((gate, up), dy), (d_gate, d_up)) in inputs.zip(outputs) {
            let (gate, dy) = (gate.widen(), dy.widen());
            let (share, slope) = self.function.share(gate);
            *d_up = T::round(dy * gate * share);
            // (x · share)' = share + x · share'
            *d_gate = T::round(dy * up.widen() * (share + gate * slope));
        }
    }
}
