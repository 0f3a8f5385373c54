//! The gated activation f(gate) · up (Shazeer, 2020), f being SiLU or GELU, in fp32 whatever the type of the activations.

mod cpu;

use half::bf16;
use tch::Tensor;

use self::cpu::{GeluTanh, Silu};
use super::Result;
use super::profile::{Operation, timed};
use super::side::Side;

/// What is applied to the gate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// x · Phi(x), with the tanh approximation of Phi (Hendrycks and Gimpel, 2016).
    GeluTanh,
}

/// What the backward needs, each (M, intermediate).
#[derive(Debug)]
pub struct SavedGate {
    activation: Activation,
    gate: Tensor,
    up: Tensor,
}

/// f(gate) · up, all (M, intermediate) and contiguous.
pub fn forward(activation: Activation, gate: Tensor, up: Tensor) -> Result<(Tensor, SavedGate)> {
    let side = Side::of(&gate, "an activation")?;
    let y = timed(Operation::Gate, || match (side, activation) {
        (Side::CpuBrain, Activation::Silu) => cpu::forward::<bf16, _>(Silu, &gate, &up),
        (Side::CpuBrain, Activation::GeluTanh) => cpu::forward::<bf16, _>(GeluTanh, &gate, &up),
        (Side::CpuFloat, Activation::Silu) => cpu::forward::<f32, _>(Silu, &gate, &up),
        (Side::CpuFloat, Activation::GeluTanh) => cpu::forward::<f32, _>(GeluTanh, &gate, &up),
    })?;
    Ok((
        y,
        SavedGate {
            activation,
            gate,
            up,
        },
    ))
}

/// The gradients for gate and up from that of the product.
pub fn backward(saved: &SavedGate, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let side = Side::of(dy, "an activation")?;
    timed(Operation::Gate, || match (side, saved.activation) {
        (Side::CpuBrain, Activation::Silu) => cpu::backward::<bf16, _>(Silu, saved, dy),
        (Side::CpuBrain, Activation::GeluTanh) => cpu::backward::<bf16, _>(GeluTanh, saved, dy),
        (Side::CpuFloat, Activation::Silu) => cpu::backward::<f32, _>(Silu, saved, dy),
        (Side::CpuFloat, Activation::GeluTanh) => cpu::backward::<f32, _>(GeluTanh, saved, dy),
    })
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::ops::test_support::{assert_close, random};
    use rstest::rstest;

    #[rstest]
    #[case(Activation::Silu)]
    #[case(Activation::GeluTanh)]
    fn equals_automatic_differentiation(#[case] activation: Activation) {
        let [gate, up, dy] = [1, 2, 3].map(|seed| random(&[7, 40], seed) * 3.0);
        let [gate, up] = [gate, up].map(|x| x.set_requires_grad(true));
        let expected = match activation {
            Activation::Silu => gate.silu() * &up,
            Activation::GeluTanh => gate.gelu("tanh") * &up,
        };
        (&expected * &dy).sum(Kind::Float).backward();
        let (y, saved) = forward(activation, gate.detach(), up.detach()).unwrap();
        let (d_gate, d_up) = backward(&saved, &dy).unwrap();
        for (ours, expected) in [
            (y, expected.detach()),
            (d_gate, gate.grad()),
            (d_up, up.grad()),
        ] {
            assert_close(&ours, &expected);
        }
    }
}
