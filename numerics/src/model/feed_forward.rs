//! The feed-forward part of a layer: down(f(gate(x)) · up(x)).

use tch::Tensor;

use super::Projection;
use super::layer::Pass;
use super::linears::{Adapted, Inner};
use crate::ops::{Result, gated};

/// What the backward needs.
#[derive(Debug)]
pub(super) struct Saved {
    activation: gated::Saved,
    /// The input of down (M, intermediate).
    activated: Tensor,
}

/// x (M, H) to (M, H).
pub(super) fn forward(
    x: &Tensor,
    linears: Adapted<'_>,
    inner: &mut Inner,
    pass: &mut Pass<'_>,
) -> Result<(Tensor, Saved)> {
    let wiring = &pass.config.wiring;
    let (gate, up) = if wiring.fused {
        let both = linears.forward(Projection::GateUp, x, inner, pass.scratch)?;
        let width = pass.config.intermediate_size;
        let half = |start| both.f_narrow(1, start, width)?.f_contiguous();
        (half(0)?, half(width)?)
    } else {
        (
            linears.forward(Projection::Gate, x, inner, pass.scratch)?,
            linears.forward(Projection::Up, x, inner, pass.scratch)?,
        )
    };
    let (activated, activation) = gated::forward(wiring.activation, gate, up)?; // (M, intermediate)
    let y = linears.forward(Projection::Down, &activated, inner, pass.scratch)?;
    let saved = Saved {
        activation,
        activated,
    };
    Ok((y, saved))
}

/// The gradient for x (M, H) from that of the result (M, H).
pub(super) fn backward(
    saved: &Saved,
    x: &Tensor,
    dy: &Tensor,
    linears: Adapted<'_>,
    inner: &Inner,
    pass: &mut Pass<'_>,
) -> Result<Tensor> {
    let mut linear = |projection, x: &Tensor, dy: &Tensor, dx| {
        linears.backward(projection, x, dy, dx, inner, pass.scratch)
    };
    let d_activated = linear(Projection::Down, &saved.activated, dy, None)?;
    let (d_gate, d_up) = gated::backward(&saved.activation, &d_activated)?;
    if pass.config.wiring.fused {
        let d_both = Tensor::f_cat(&[d_gate, d_up], 1)?;
        return linear(Projection::GateUp, x, &d_both, None);
    }
    let dx = linear(Projection::Gate, x, &d_gate, None)?;
    linear(Projection::Up, x, &d_up, Some(dx))
}
