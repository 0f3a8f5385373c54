//! What products are made of: results, and the products of matrices that each is the sum of.

use std::ops::Range;

use half::bf16;

use super::panel::Right;
use crate::ops::cpu::memory::Shared;
use crate::ops::cpu::tile::Left;

/// One of the products that a result is the sum of.
#[derive(Clone, Debug)]
pub(crate) struct Term<'a> {
    /// The result's rows that it is a part of. The left matrix has as many.
    pub(crate) rows: Range<usize>,
    pub(crate) left: TermLeft<'a>,
    pub(crate) inner: usize,
    pub(crate) right: Right<'a>,
}

/// The left matrix of a term.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TermLeft<'a> {
    /// fp32, multiplied by our own loops.
    Float(Left<'a>),
    /// Whole rows of the inner dimension in bfloat16, end to end, multiplied by the kernel of [`brgemm`], which must be usable. The
    /// right matrix is then taken in bfloat16, too.
    Brain(&'a [bf16]),
}

/// A result and what it is the sum of.
#[derive(Debug)]
pub(crate) struct Product<'a> {
    pub(crate) terms: Vec<Term<'a>>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) out: Out<'a>,
}

/// Where a result goes: number (i, j) to i · `row` + j · `column`, times `factor`, plus the bias of its column.
#[derive(Debug)]
pub(crate) struct Out<'a> {
    pub(crate) numbers: OutNumbers<'a>,
    pub(crate) row: usize,
    pub(crate) column: usize,
    pub(crate) factor: f32,
    pub(crate) bias: Option<&'a [f32]>,
    /// Whether it is added to what is there.
    pub(crate) adds: bool,
}

/// Numbers that tasks write, each others than the rest.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OutNumbers<'a> {
    /// fp32.
    Float(Shared<'a, f32>),
    /// bfloat16.
    Brain(Shared<'a, bf16>),
}

impl Product<'_> {
    /// Products of numbers.
    pub(super) fn work(&self) -> usize {
        let terms = self.terms.iter();
        terms
            .map(|term| term.rows.len() * term.inner * self.columns)
            .sum()
    }

    /// Whether the kernel for bfloat16 multiplies some of it.
    pub(super) fn has_kernel(&self) -> bool {
        let is_brain = |term: &Term<'_>| matches!(term.left, TermLeft::Brain(_));
        self.terms.iter().any(is_brain)
    }
}
