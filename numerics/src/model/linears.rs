//! The linear layers of one layer, with the adapters that ride on them.

use tch::Tensor;

use super::pass::{Pass, Rider};
use crate::architecture::Projection;
use crate::ops::linear::{self, AdapterDropout, Linear, RowBlock, SavedLinears};
use crate::ops::{Error, Result};

/// The linear layers of a layer, by `Projection`; absent those that the family does not have.
#[derive(Debug)]
pub(super) struct Linears {
    /// The layer's number, from 0.
    pub(super) layer: usize,
    pub(super) by_projection: [Option<Linear>; Projection::ALL.len()],
}

impl Linears {
    /// x (M, in) to y (M, out) of these projections, which share it, and what the backward needs.
    pub(super) fn forward(
        &self,
        projections: &[Projection],
        x: &Tensor,
        pass: &mut Pass<'_>,
    ) -> Result<(Vec<Tensor>, SavedLinears)> {
        let layers = self.of(projections)?;
        let blocks = self.blocks(projections, pass);
        linear::forward(&layers, x, &blocks, pass.scratch)
    }

    /// x (M, in) to y (M, out) of one projection.
    pub(super) fn forward_one(
        &self,
        projection: Projection,
        x: &Tensor,
        pass: &mut Pass<'_>,
    ) -> Result<(Tensor, SavedLinears)> {
        let (mut ys, saved) = self.forward(&[projection], x, pass)?;
        Ok((ys.remove(0), saved))
    }

    /// The gradient for x (M, in) from those for y (M, out) of projections that share it.
    pub(super) fn backward(
        &self,
        projections: &[Projection],
        x: &Tensor,
        dys: &[Tensor],
        saved: &SavedLinears,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let layers = self.of(projections)?;
        let blocks = self.blocks(projections, pass);
        linear::backward(&layers, x, dys, &blocks, saved, pass.scratch)
    }

    fn of(&self, projections: &[Projection]) -> Result<Vec<&Linear>> {
        let one = |projection: &Projection| {
            let linear = self.by_projection[*projection as usize].as_ref();
            linear.ok_or_else(|| {
                Error::Configuration(format!(
                    "the model has no {}, expected it in its layers",
                    projection.name()
                ))
            })
        };
        projections.iter().map(one).collect()
    }

    fn blocks<'a>(&self, projections: &[Projection], pass: &Pass<'a>) -> Vec<RowBlock<'a>> {
        let block = |rider: &Rider<'a>| RowBlock {
            rows: rider.rows,
            adapters: projections
                .iter()
                .map(|projection| rider.adapter?.layer(self.layer)[*projection as usize].as_ref())
                .collect(),
            dropout: pass.random.and_then(|random| {
                (random.adapter_dropout > 0.0).then_some(AdapterDropout {
                    rate: random.adapter_dropout,
                    draw: random.draw,
                })
            }),
        };
        pass.riders.iter().map(block).collect()
    }
}
