//! The gated activation silu(gate) · up (Shazeer, 2020).

use tch::Tensor;

use super::Result;

/// What the backward needs, each (M, intermediate).
#[derive(Debug)]
pub struct Saved {
    gate: Tensor,
    up: Tensor,
}

/// silu(gate) · up, all (M, intermediate).
pub fn forward(gate: Tensor, up: Tensor) -> Result<(Tensor, Saved)> {
    let y = gate.f_silu()?.f_mul_(&up)?;
    Ok((y, Saved { gate, up }))
}

/// The gradients for gate and up from that of the product.
pub fn backward(saved: &Saved, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let d_up = saved.gate.f_silu()?.f_mul_(dy)?;
    let d_gate = saved.gate.f_silu_backward(&dy.f_mul(&saved.up)?)?;
    Ok((d_gate, d_up))
}
