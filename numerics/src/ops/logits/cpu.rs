//! Logits of a few rows on the CPU.

use half::bf16;
use tch::{Kind, Tensor};

use crate::ops::Result;
use crate::ops::cpu::kernel::{self, Kernel};
use crate::ops::cpu::memory::{self, Element, slice, slice_mut};

/// hidden (M, H) and head (V, H) in bfloat16 to logits (M, V), each row of the head read once.
pub(super) fn few(hidden: &Tensor, head: &Tensor) -> Result<Tensor> {
    let hidden = hidden.f_to_kind(Kind::Float)?.f_contiguous()?;
    let (rows, vocabulary) = (hidden.size()[0], head.size()[0]);
    let mut logits = memory::empty::<f32>(&[rows, vocabulary])?;
    let (hidden, head) = (slice::<f32>(&hidden)?, slice::<bf16>(head)?);
    let width = head.len() / vocabulary as usize;
    let each = kernel::rows_per_part(width);
    let mut kernels = Vec::new();
    for (logits, hidden) in slice_mut::<f32>(&mut logits)?
        .chunks_exact_mut(vocabulary as usize)
        .zip(hidden.chunks_exact(width))
    {
        let parts = logits.chunks_mut(each).zip(head.chunks(each * width));
        kernels.extend(parts.map(|(logits, head)| Dots {
            hidden,
            head,
            logits,
        }));
    }
    kernel::run_all(kernels);
    Ok(logits)
}

/// The products of some rows of the head with one hidden row.
struct Dots<'a> {
    hidden: &'a [f32],
    head: &'a [bf16],
    logits: &'a mut [f32],
}

impl Kernel for Dots<'_> {
    #[inline(always)]
    fn run(self) {
        for (logit, row) in self
            .logits
            .iter_mut()
            .zip(self.head.chunks_exact(self.hidden.len()))
        {
            *logit = dot(self.hidden, row);
        }
    }
}

#[inline(always)]
fn dot(hidden: &[f32], row: &[bf16]) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0.0f32; LANES];
    let (hidden, row) = (hidden.chunks_exact(LANES), row.chunks_exact(LANES));
    let rest = hidden.remainder().iter().zip(row.remainder());
    let rest: f32 = rest.map(|(x, weight)| x * weight.widen()).sum();
    for (hidden, row) in hidden.zip(row) {
        for lane in 0..LANES {
            sums[lane] += hidden[lane] * row[lane].widen();
        }
    }
    rest + sums.iter().sum::<f32>()
}
