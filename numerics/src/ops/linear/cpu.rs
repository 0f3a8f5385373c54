//! Linear layers on the CPU: which products a forward and a backward are made of.
//!
//! Where the processor has wide lanes that multiply and add at once, all products are our own loops. Where it multiplies bfloat16
//! faster than fp32, those with W are a kernel's, into the same fp32 sums as what adapters give. Where there is neither, or few rows,
//! they are libtorch's, and what adapters give is computed first, so that it is rounded at its own size.

use std::ops::Range;

use half::bf16;
use tch::{Device, Kind, Tensor};

use super::{Linear, RowBlock, SavedAt, SavedLinears, SavedLowRank, Scratch, Weight};
use crate::ops::Result;
use crate::ops::cpu::memory::{self, slice};
use crate::ops::low_rank::LowRank;
use crate::ops::product::matmul::{Multiplier, matmul};
use crate::ops::product::panel::{Matrix, Numbers, Right};
use crate::ops::product::rows::Rows;
use crate::ops::product::{self, Out, OutNumbers, Product, Term, TermLeft};
use crate::ops::profile::{Operation, timed};
use crate::ops::random::Dropout;
use crate::ops::trained::Gradient;

/// An adapter of one of the layers, for the rows of one block.
struct Rider<'a> {
    layer: usize,
    block: usize,
    rows: Range<usize>,
    adapter: &'a LowRank,
    dropout: Option<Dropout>,
    /// Of its input what dropout leaves.
    kept: Option<Tensor>,
}

/// y of each layer, with or without its bias, and what its adapters saved.
pub(super) fn forward(
    layers: &[&Linear],
    x: &Tensor,
    blocks: &[RowBlock<'_>],
    with_bias: bool,
    scratch: &mut Scratch,
) -> Result<(Vec<Tensor>, SavedLinears)> {
    let kind = x.f_kind()?;
    let (count, width) = (x.size()[0] as usize, x.size()[1] as usize);
    let multiplier = Multiplier::of(kind, count, [width]);
    let riders = riders(x, blocks)?;
    let rows = match multiplier == Multiplier::Own || !riders.is_empty() {
        true => Some(Rows::of(x)?),
        false => None,
    };
    let inners = match &rows {
        Some(rows) => inners(&riders, rows)?,
        None => Vec::new(),
    };
    let of_inners = wide(&inners)?;
    let mut ys = Vec::with_capacity(layers.len());
    for layer in layers {
        let shape = [x.size()[0], layer.weight.shape()?.0];
        ys.push(Tensor::f_empty(shape, (kind, Device::Cpu))?);
    }
    let mut products = Vec::new();
    for (index, (layer, y)) in layers.iter().zip(&mut ys).enumerate() {
        let columns = y.size()[1] as usize;
        let mut terms = Vec::new();
        match (multiplier, &rows) {
            (Multiplier::Own, Some(rows)) => {
                terms.push(rows.times(layer.weight.matrix(kind)?.transposed(), 0..count));
            }
            (Multiplier::Kernel, _) => {
                terms.push(by_kernel(x, layer.weight.matrix(kind)?.transposed())?);
            }
            (Multiplier::Own, None) | (Multiplier::Libtorch, _) => {}
        }
        for (rider, inner) in riders.iter().zip(&of_inners) {
            if rider.layer == index {
                let b = rider.adapter.b_matrix()?.transposed();
                terms.push(inner.times(b, rider.rows.clone()));
            }
        }
        let bias = layer.bias.as_ref().filter(|_| with_bias);
        let mut out = Out::over(y)?;
        out.bias = bias.map(|bias| slice::<f32>(&bias.value)).transpose()?;
        products.push(Product {
            terms,
            rows: count,
            columns,
            out,
        });
    }
    product::run(&products);
    if multiplier == Multiplier::Libtorch {
        for (layer, y) in layers.iter().zip(&mut ys) {
            let weight = layer.weight.dense(scratch)?;
            let _ = y.f_addmm_(x, &weight.f_tr()?)?;
        }
    }
    drop(of_inners);
    Ok((ys, saved(layers.len(), blocks.len(), &riders, inners)))
}

/// The gradient for x from those for y; with those that the adapters see, where they see others.
pub(super) fn backward(
    layers: &[&Linear],
    x: &Tensor,
    (dys, of_adapters): (&[Tensor], Option<&[Tensor]>),
    blocks: &[RowBlock<'_>],
    saved: SavedAt<'_>,
    scratch: &mut Scratch,
) -> Result<Tensor> {
    let kind = x.f_kind()?;
    let (count, columns) = (x.size()[0] as usize, x.size()[1] as usize);
    let multiplier = Multiplier::of(kind, count, dys.iter().map(|dy| dy.size()[1] as usize));
    let riders = riders(x, blocks)?;
    let is_own = multiplier == Multiplier::Own;
    let of_dys = match is_own || (of_adapters.is_none() && !riders.is_empty()) {
        true => wide(dys)?,
        false => Vec::new(),
    };
    let d_inners = match of_adapters {
        _ if riders.is_empty() => Vec::new(),
        None => d_inners(&riders, &of_dys, saved)?,
        Some(dys) => d_inners(&riders, &wide(dys)?, saved)?,
    };
    let of_d_inners = wide(&d_inners)?;
    add_gradients_of_a(&riders, &of_d_inners, x)?;

    let mut dx = Tensor::f_empty(x.size(), (kind, Device::Cpu))?;
    let mut terms = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        match multiplier {
            Multiplier::Own => {
                let weight = layer.weight.matrix(kind)?.direct();
                terms.push(of_dys[index].times(weight, 0..count));
            }
            Multiplier::Kernel => {
                terms.push(by_kernel(&dys[index], layer.weight.matrix(kind)?.direct())?);
            }
            Multiplier::Libtorch => {}
        }
    }
    for (rider, d_inner) in riders.iter().zip(&of_d_inners) {
        if rider.dropout.is_none() {
            let a = rider.adapter.a_matrix()?.direct();
            terms.push(d_inner.times(a, rider.rows.clone()));
        }
    }
    product::run(&[Product {
        terms,
        rows: count,
        columns,
        out: Out::over(&mut dx)?,
    }]);
    if multiplier == Multiplier::Libtorch {
        for (layer, dy) in layers.iter().zip(dys) {
            let _ = dx.f_addmm_(dy, &layer.weight.dense(scratch)?)?;
        }
    }
    for (rider, d_inner) in riders.iter().zip(&of_d_inners) {
        if let Some(dropout) = &rider.dropout {
            let mut d_kept =
                Tensor::f_empty([d_inner.count as i64, columns as i64], (kind, Device::Cpu))?;
            let a = rider.adapter.a_matrix()?.direct();
            product::run(&[Product {
                terms: vec![d_inner.times(a, 0..d_inner.count)],
                rows: d_inner.count,
                columns,
                out: Out::over(&mut d_kept)?,
            }]);
            let mut of_block = narrow(&dx, &rider.rows)?;
            let _ = of_block.f_add_(&dropout.apply(&d_kept)?)?;
        }
    }
    Ok(dx)
}

/// The rows of each tensor in fp32.
fn wide(tensors: &[Tensor]) -> Result<Vec<Rows<'_>>> {
    tensors.iter().map(Rows::of).collect()
}

/// All rows of x, contiguous and in bfloat16, times a right matrix.
fn by_kernel<'a>(x: &'a Tensor, right: Right<'a>) -> Result<Term<'a>> {
    let (rows, inner) = x.size2()?;
    Ok(Term {
        rows: 0..rows as usize,
        left: TermLeft::Brain(slice::<bf16>(x)?),
        inner: inner as usize,
        right,
    })
}

/// All adapters on these layers.
fn riders<'a>(x: &Tensor, blocks: &[RowBlock<'a>]) -> Result<Vec<Rider<'a>>> {
    let mut riders = Vec::new();
    let mut start = 0;
    for (block, of_block) in blocks.iter().enumerate() {
        let rows = start..start + of_block.rows as usize;
        start = rows.end;
        for (layer, adapter) in of_block.adapters.iter().enumerate() {
            let Some(adapter) = adapter else { continue };
            let dropout = of_block.dropout(adapter);
            let kept = match &dropout {
                None => None,
                Some(dropout) => Some(dropout.apply(&narrow(x, &rows)?)?),
            };
            riders.push(Rider {
                layer,
                block,
                rows: rows.clone(),
                adapter,
                dropout,
                kept,
            });
        }
    }
    Ok(riders)
}

/// The riders' indices by adapter, each with its first rider: what several blocks add to one gradient is one product, because results
/// that are computed at a time lie apart.
fn by_adapter<'r, 'a>(riders: &'r [Rider<'a>]) -> Vec<(&'r Rider<'a>, Vec<usize>)> {
    let mut found: Vec<(&Rider<'a>, Vec<usize>)> = Vec::new();
    for (index, rider) in riders.iter().enumerate() {
        let same = found
            .iter_mut()
            .find(|(first, _)| std::ptr::eq(first.adapter, rider.adapter));
        match same {
            Some((_, indices)) => indices.push(index),
            None => found.push((rider, vec![index])),
        }
    }
    found
}

/// s·x·Aᵀ of each rider (rows, r), fp32.
fn inners(riders: &[Rider<'_>], x: &Rows<'_>) -> Result<Vec<Tensor>> {
    timed(Operation::LowRank, || {
        let kept = riders
            .iter()
            .map(Rider::kept_rows)
            .collect::<Result<Vec<_>>>()?;
        let mut inners = riders
            .iter()
            .map(Rider::inner)
            .collect::<Result<Vec<_>>>()?;
        let mut products = Vec::with_capacity(riders.len());
        for ((rider, kept), inner) in riders.iter().zip(&kept).zip(&mut inners) {
            let a = rider.adapter.a_matrix()?.transposed();
            let term = match kept {
                Some(kept) => kept.times(a, 0..kept.count),
                None => x.some_times(rider.rows.clone(), a),
            };
            let mut out = Out::over(inner)?;
            out.factor = rider.adapter.scaling as f32;
            products.push(Product {
                terms: vec![term],
                rows: rider.rows.len(),
                columns: rider.adapter.rank(),
                out,
            });
        }
        product::run(&products);
        drop(products);
        Ok(inners)
    })
}

/// s·dy·B of each rider (rows, r), fp32; the gradients of B are added to their own: dyᵀ·s·x·Aᵀ.
fn d_inners(riders: &[Rider<'_>], dys: &[Rows<'_>], saved: SavedAt<'_>) -> Result<Vec<Tensor>> {
    timed(Operation::LowRank, || {
        let mut d_inners = riders
            .iter()
            .map(Rider::inner)
            .collect::<Result<Vec<_>>>()?;
        let inners = riders
            .iter()
            .map(|rider| Rows::of(&saved.of(rider.layer, rider.block)?.inner))
            .collect::<Result<Vec<_>>>()?;
        let mut products = Vec::with_capacity(2 * riders.len());
        for (rider, d_inner) in riders.iter().zip(&mut d_inners) {
            let dy = &dys[rider.layer];
            let rank = rider.adapter.rank();
            let term = dy.some_times(rider.rows.clone(), rider.adapter.b_matrix()?.direct());
            let mut out = Out::over(d_inner)?;
            out.factor = rider.adapter.scaling as f32;
            products.push(Product {
                terms: vec![term],
                rows: rider.rows.len(),
                columns: rank,
                out,
            });
        }
        for (first, same) in by_adapter(riders) {
            let terms = same.iter().map(|&index| {
                let matrix = dys[riders[index].layer].matrix(riders[index].rows.clone());
                inners[index].transposed_times(matrix.direct())
            });
            let rank = first.adapter.rank();
            // Transposed, so that the wide side is that of the lanes: (r, out).
            products.push(Product {
                terms: terms.collect(),
                rows: rank,
                columns: dys[first.layer].width,
                out: Out::add_to(&first.adapter.gradient_b, 1, rank)?,
            });
        }
        product::run(&products);
        drop(products);
        Ok(d_inners)
    })
}

/// Adds to the gradients of A: (s·dy·B)ᵀ·x.
fn add_gradients_of_a(riders: &[Rider<'_>], d_inners: &[Rows<'_>], x: &Tensor) -> Result<()> {
    if riders.is_empty() {
        return Ok(());
    }
    timed(Operation::LowRank, || {
        let x = Rows::of(x)?;
        let kept = riders
            .iter()
            .map(Rider::kept_rows)
            .collect::<Result<Vec<_>>>()?;
        let mut products = Vec::with_capacity(riders.len());
        for (first, same) in by_adapter(riders) {
            let terms = same.iter().map(|&index| {
                let input = match &kept[index] {
                    Some(kept) => kept.matrix(0..kept.count),
                    None => x.matrix(riders[index].rows.clone()),
                };
                d_inners[index].transposed_times(input.direct())
            });
            products.push(Product {
                terms: terms.collect(),
                rows: first.adapter.rank(),
                columns: x.width,
                out: Out::add_to(&first.adapter.gradient_a, x.width, 1)?,
            });
        }
        product::run(&products);
        Ok(())
    })
}

fn saved(layers: usize, blocks: usize, riders: &[Rider<'_>], inners: Vec<Tensor>) -> SavedLinears {
    let mut saved = SavedLinears::default();
    saved.0.resize_with(layers, Vec::new);
    for of_layer in &mut saved.0 {
        of_layer.resize_with(blocks, || None);
    }
    for (rider, inner) in riders.iter().zip(inners) {
        saved.0[rider.layer][rider.block] = Some(SavedLowRank { inner, dora: None });
    }
    saved
}

/// Some rows of a tensor (M, N).
pub(super) fn narrow(x: &Tensor, rows: &Range<usize>) -> Result<Tensor> {
    Ok(x.f_narrow(0, rows.start as i64, rows.len() as i64)?)
}

impl Rider<'_> {
    fn kept_rows(&self) -> Result<Option<Rows<'_>>> {
        self.kept.as_ref().map(Rows::of).transpose()
    }

    /// An uninitialised (rows, r).
    fn inner(&self) -> Result<Tensor> {
        memory::empty::<f32>(&[self.rows.len() as i64, self.adapter.rank() as i64])
    }
}

impl Weight {
    /// The matrix as products take it apart, for activations in `kind`.
    fn matrix(&self, kind: Kind) -> Result<Matrix<'_>> {
        let rounded = kind == Kind::BFloat16;
        match self {
            Self::Dense(dense) => Matrix::of(&dense.value, rounded),
            Self::FourBit(matrix) => Ok(Matrix {
                numbers: Numbers::FourBit(matrix),
                width: matrix.shape().1 as usize,
                rounded,
            }),
        }
    }
}

impl LowRank {
    /// A (r, in).
    fn a_matrix(&self) -> Result<Matrix<'_>> {
        Matrix::of(&self.a, false)
    }

    /// B (out, r).
    fn b_matrix(&self) -> Result<Matrix<'_>> {
        Matrix::of(&self.b, false)
    }

    /// r.
    fn rank(&self) -> usize {
        self.a.size()[0] as usize
    }
}

impl<'a> Out<'a> {
    /// What is added to a gradient, with these distances of rows and columns.
    fn add_to(gradient: &'a Gradient, row: usize, column: usize) -> Result<Self> {
        Ok(Self {
            numbers: OutNumbers::Float(gradient.place()?),
            row,
            column,
            factor: 1.0,
            bias: None,
            adds: true,
        })
    }
}

/// x (M, in) times W (out, in), transposed or not: in the type of x.
pub(super) fn times(
    x: &Tensor,
    weight: &Weight,
    transposed: bool,
    scratch: &mut Scratch,
) -> Result<Tensor> {
    let kind = x.f_kind()?;
    if Multiplier::of(kind, 0, []) != Multiplier::Own {
        let weight = weight.dense(scratch)?;
        return Ok(match transposed {
            true => x.f_mm(&weight.f_tr()?)?,
            false => x.f_mm(&weight)?,
        });
    }
    let (output, input) = weight.shape()?;
    let matrix = weight.matrix(kind)?;
    let (right, columns) = match transposed {
        true => (matrix.transposed(), output),
        false => (matrix.direct(), input),
    };
    matmul(&x.f_contiguous()?, right, columns, kind)
}
