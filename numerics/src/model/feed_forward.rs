//! The feed-forward part of a layer: down(f(gate(x)) · up(x)).

use tch::Tensor;

use super::linears::Linears;
use super::pass::Pass;
use crate::architecture::Projection;
use crate::ops::gated::{self, SavedGate};
use crate::ops::linear::SavedLinears;
use crate::ops::{Error, Result};

/// What the backward needs.
#[derive(Debug)]
pub(super) struct SavedFeedForward {
    gate_and_up: SavedLinears,
    activation: SavedGate,
    /// The input of down (M, intermediate).
    activated: Tensor,
    down: SavedLinears,
}

/// Those that share the part's input.
const SEPARATE: [Projection; 2] = [Projection::Gate, Projection::Up];

/// x (M, H) to (M, H).
pub(super) fn forward(
    x: &Tensor,
    linears: &Linears,
    pass: &mut Pass<'_>,
) -> Result<(Tensor, SavedFeedForward)> {
    let wiring = &pass.config.wiring;
    let (activation, fused) = (wiring.activation, wiring.fused);
    let ([gate, up], gate_and_up) = if fused {
        let (both, saved) = linears.forward_one(Projection::GateUp, x, pass)?;
        let width = pass.config.intermediate_size;
        let half = |start| both.f_narrow(1, start, width)?.f_contiguous();
        ([half(0)?, half(width)?], saved)
    } else {
        let (ys, saved) = linears.forward(&SEPARATE, x, pass)?;
        let two = <[Tensor; 2]>::try_from(ys);
        (two.map_err(|ys| wrong_number(ys.len()))?, saved)
    };
    let (activated, activation) = gated::forward(activation, gate, up)?; // (M, intermediate)
    let (y, down) = linears.forward_one(Projection::Down, &activated, pass)?;
    let saved = SavedFeedForward {
        gate_and_up,
        activation,
        activated,
        down,
    };
    Ok((y, saved))
}

/// The gradient for x (M, H) from that of the result (M, H).
pub(super) fn backward(
    saved: &SavedFeedForward,
    x: &Tensor,
    dy: &Tensor,
    linears: &Linears,
    pass: &mut Pass<'_>,
) -> Result<Tensor> {
    let down = [Projection::Down];
    let dys = [dy.shallow_clone()];
    let d_activated = linears.backward(&down, &saved.activated, &dys, &saved.down, pass)?;
    let (d_gate, d_up) = gated::backward(&saved.activation, &d_activated)?;
    if pass.config.wiring.fused {
        let both = [Tensor::f_cat(&[d_gate, d_up], 1)?];
        let projection = [Projection::GateUp];
        return linears.backward(&projection, x, &both, &saved.gate_and_up, pass);
    }
    linears.backward(&SEPARATE, x, &[d_gate, d_up], &saved.gate_and_up, pass)
}

fn wrong_number(found: usize) -> Error {
    Error::Input(format!("{found} results of gate and up, expected 2"))
}
