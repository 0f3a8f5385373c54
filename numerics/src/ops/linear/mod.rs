//! Linear layers y = x·Wᵀ + b that share their input, with low-rank adapters on them (Hu et al., 2021): y += s·(x·Aᵀ)·Bᵀ.
//!
//! The rows of x come in blocks, each with its own adapters or none: a pass may serve several adapters, or train several, over one
//! base. An adapter's part enters the same fp32 sums as the product with W, so that of a small update nothing is rounded away. A
//! weight may be dense, in 4 bits (decoded panel by panel, but where libtorch multiplies) or itself trained. Saves of each adapter s·x·Aᵀ (rows, r).

mod cpu;
mod dora;

use tch::{Device, Kind, Tensor};

use self::dora::SavedDora;
use super::four_bit::FourBitMatrix;
use super::low_rank::LowRank;
use super::profile::{Operation, timed};
use super::random::{Draw, Dropout};
use super::side::Side;
use super::trained::{Gradient, WeightId};
use super::{Error, Result};

/// A dense matrix or vector and, where it is trained, its gradient.
#[derive(Debug)]
pub struct Dense {
    /// In the type of the activations or in fp32; where trained, a view of the flat fp32 parameters.
    pub value: Tensor,
    /// A view of the flat gradients; added to by every backward.
    pub gradient: Option<Gradient>,
}

impl Dense {
    /// The value in the type of the scratch buffer. It may lie in the buffer: use it before the next call.
    pub fn in_kind(&self, scratch: &mut Scratch) -> Result<Tensor> {
        if self.value.f_kind()? == scratch.kind {
            return Ok(self.value.shallow_clone());
        }
        let mut cast = scratch.take(&self.value.size())?;
        cast.f_copy_(&self.value)?;
        Ok(cast)
    }
}

/// The matrix of a linear layer, as it is held.
#[derive(Debug)]
pub enum Weight {
    /// Dense, fixed or trained.
    Dense(Dense),
    /// Fixed, in 4 bits.
    FourBit(FourBitMatrix),
}

impl Weight {
    /// (out, in).
    fn shape(&self) -> Result<(i64, i64)> {
        Ok(match self {
            Self::Dense(dense) => dense.value.size2()?,
            Self::FourBit(matrix) => matrix.shape(),
        })
    }

    /// The matrix in the type of the scratch buffer. It may lie in the buffer: use it before the next call.
    fn dense(&self, scratch: &mut Scratch) -> Result<Tensor> {
        timed(Operation::Decode, || match self {
            Self::Dense(dense) => dense.in_kind(scratch),
            Self::FourBit(matrix) => {
                let (rows, columns) = matrix.shape();
                let mut dense = scratch.take(&[rows, columns])?;
                matrix.decode_into(&mut dense)?;
                Ok(dense)
            }
        })
    }

    fn gradient(&self) -> Option<&Gradient> {
        match self {
            Self::Dense(dense) => dense.gradient.as_ref(),
            Self::FourBit(_) => None,
        }
    }
}

/// One buffer for weights that are needed whole in another type, each over the last.
#[derive(Debug)]
pub struct Scratch {
    kind: Kind,
    buffer: Option<Tensor>,
}

impl Scratch {
    /// An empty buffer for weights in `kind`; it grows to the largest weight it meets.
    pub const fn new(kind: Kind) -> Self {
        Self { kind, buffer: None }
    }

    fn take(&mut self, shape: &[i64]) -> Result<Tensor> {
        let length = shape.iter().product::<i64>();
        let buffer = match self.buffer.take() {
            Some(buffer) if buffer.numel() as i64 >= length => buffer,
            _ => Tensor::f_empty([length], (self.kind, Device::Cpu))?,
        };
        let view = buffer.f_narrow(0, 0, length)?.f_view(shape)?;
        self.buffer = Some(buffer);
        Ok(view)
    }
}

/// A linear layer.
#[derive(Debug)]
pub struct Linear {
    /// W (out, in).
    weight: Weight,
    /// b (out).
    bias: Option<Dense>,
    /// What adapters know W by.
    id: WeightId,
}

/// Consecutive rows of an input, and the adapters that ride on the layers for them.
#[derive(Clone, Debug)]
pub struct RowBlock<'a> {
    /// How many, behind those of the blocks before.
    pub rows: i64,
    /// One for each of the layers, where there is one.
    pub adapters: Vec<Option<&'a LowRank>>,
    /// What is left out of the adapters' input, in training.
    pub dropout: Option<AdapterDropout>,
}

/// Dropout on the inputs of adapters, each module by a mask of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterDropout {
    /// The probability, below 1.
    pub rate: f64,
    /// What the masks are drawn from.
    pub draw: Draw,
}

impl RowBlock<'_> {
    /// The dropout of one of the layers' adapters.
    fn dropout(&self, adapter: &LowRank) -> Option<Dropout> {
        self.dropout.map(|dropout| Dropout {
            rate: dropout.rate,
            key: dropout.draw.key(&adapter.module),
        })
    }
}

/// What the backward of adapted layers needs: for each layer and each block what its adapter saved.
#[derive(Debug, Default)]
pub struct SavedLinears(Vec<Vec<Option<SavedLowRank>>>);

/// What an adapter saved of one block.
#[derive(Debug)]
struct SavedLowRank {
    /// s·x·Aᵀ (rows, r), fp32, of the x that dropout left.
    inner: Tensor,
    dora: Option<SavedDora>,
}

/// What was saved, as those see it who begin with one of the layers and one of the blocks.
#[derive(Clone, Copy, Debug)]
struct SavedAt<'a> {
    saved: &'a SavedLinears,
    layer: usize,
    block: usize,
}

impl<'a> SavedAt<'a> {
    fn of(&self, layer: usize, block: usize) -> Result<&'a SavedLowRank> {
        let of_layer = self.saved.0.get(self.layer + layer);
        let of_block = of_layer.and_then(|blocks| blocks.get(self.block + block));
        of_block.and_then(Option::as_ref).ok_or_else(|| {
            Error::Input("a backward of an adapter whose forward saved nothing".to_owned())
        })
    }
}

impl Linear {
    /// A layer of W (out, in) and b (out).
    pub fn new(weight: Weight, bias: Option<Dense>) -> Self {
        Self {
            weight,
            bias,
            id: WeightId::new(),
        }
    }

    /// The norms of the rows of W + s·B·A (out), fp32: what DoRA's magnitudes start from.
    pub fn norms(&self, adapter: &LowRank, scratch: &mut Scratch) -> Result<Tensor> {
        adapter.norms(&self.weight.dense(scratch)?)
    }
}

/// x (M, in) to y (M, out) of each layer, and what the backward needs. The blocks' rows are all rows of x.
pub fn forward(
    layers: &[&Linear],
    x: &Tensor,
    blocks: &[RowBlock<'_>],
    scratch: &mut Scratch,
) -> Result<(Vec<Tensor>, SavedLinears)> {
    check(layers, x, blocks)?;
    timed(Operation::Product, || {
        if !dora::any(blocks) {
            return cpu::forward(layers, x, blocks, cpu::BIAS, scratch);
        }
        let mut found = (Vec::new(), SavedLinears::default());
        for (index, layer) in layers.iter().enumerate() {
            let (y, saved) = dora::forward(layer, x, &of_layer(blocks, index), scratch)?;
            found.0.push(y);
            found.1.0.push(saved);
        }
        Ok(found)
    })
}

/// The same for one layer whose y is added to `residual` (M, out), which goes around it.
pub fn forward_onto(
    layer: &Linear,
    x: &Tensor,
    blocks: &[RowBlock<'_>],
    residual: &Tensor,
    scratch: &mut Scratch,
) -> Result<(Tensor, SavedLinears)> {
    let shape = [x.size()[0], layer.weight.shape()?.0];
    if residual.size() != shape {
        return Err(Error::Shape {
            name: "residual".to_owned(),
            found: residual.size(),
            expected: shape.to_vec(),
        });
    }
    if dora::any(blocks) {
        let (mut ys, saved) = forward(&[layer], x, blocks, scratch)?;
        return Ok((ys.remove(0).f_add_(residual)?, saved));
    }
    check(&[layer], x, blocks)?;
    let residual = residual.f_contiguous()?;
    let added = cpu::Added {
        residual: Some(&residual),
        ..cpu::BIAS
    };
    let run = || cpu::forward(&[layer], x, blocks, added, scratch);
    let (mut ys, saved) = timed(Operation::Product, run)?;
    Ok((ys.remove(0), saved))
}

/// The gradient for x (M, in) from those for each layer's y (M, out); gradients of what is trained are added to their own.
pub fn backward(
    layers: &[&Linear],
    x: &Tensor,
    dys: &[Tensor],
    blocks: &[RowBlock<'_>],
    saved: &SavedLinears,
    scratch: &mut Scratch,
) -> Result<Tensor> {
    check(layers, x, blocks)?;
    let dys = dys.iter().map(Tensor::f_contiguous);
    let dys = dys.collect::<std::result::Result<Vec<_>, _>>()?;
    for (layer, dy) in layers.iter().zip(&dys) {
        if let Some(gradient) = layer.weight.gradient() {
            let product = || gradient.add_product(&dy.f_tr()?, x);
            timed(Operation::Product, product)?;
        }
        if let Some(gradient) = layer.bias.as_ref().and_then(|bias| bias.gradient.as_ref()) {
            gradient.add(&dy.f_sum_dim_intlist(0, false, Kind::Float)?)?;
        }
    }
    let saved = SavedAt {
        saved,
        layer: 0,
        block: 0,
    };
    timed(Operation::Product, || {
        if !dora::any(blocks) {
            return cpu::backward(layers, x, (&dys, None), blocks, saved, scratch);
        }
        let mut dx: Option<Tensor> = None;
        for (layer, one) in layers.iter().enumerate() {
            let blocks = of_layer(blocks, layer);
            let saved = SavedAt { layer, ..saved };
            let of_layer = dora::backward(one, x, &dys[layer], &blocks, saved, scratch)?;
            dx = Some(match dx {
                None => of_layer,
                Some(mut dx) => dx.f_add_(&of_layer)?,
            });
        }
        dx.ok_or_else(|| Error::Input("no linear layer, expected at least one".to_owned()))
    })
}

/// The blocks as one layer sees them.
fn of_layer<'a>(blocks: &[RowBlock<'a>], layer: usize) -> Vec<RowBlock<'a>> {
    let of = |block: &RowBlock<'a>| RowBlock {
        adapters: vec![block.adapters.get(layer).copied().flatten()],
        ..block.clone()
    };
    blocks.iter().map(of).collect()
}

fn check(layers: &[&Linear], x: &Tensor, blocks: &[RowBlock<'_>]) -> Result<()> {
    Side::of(x, "a linear layer")?;
    let (rows, width) = x.size2()?;
    for layer in layers {
        let (output, input) = layer.weight.shape()?;
        if input != width {
            return Err(Error::Shape {
                name: "weight".to_owned(),
                found: vec![output, input],
                expected: vec![output, width],
            });
        }
    }
    let of_blocks: i64 = blocks.iter().map(|block| block.rows).sum();
    let fits = |block: &RowBlock<'_>| block.rows > 0 && block.adapters.len() == layers.len();
    for (layer, adapter) in blocks
        .iter()
        .flat_map(|block| layers.iter().zip(&block.adapters))
    {
        if let Some(adapter) = adapter {
            adapter.check(layer.weight.shape()?)?;
        }
    }
    if of_blocks != rows || !blocks.iter().all(fits) {
        return Err(Error::Input(format!(
            "blocks of {of_blocks} rows, expected {rows}, and {} adapters or none in each",
            layers.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
