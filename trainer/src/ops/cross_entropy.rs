//! The loss: -log p(target), summed, over chunks of rows so that the (M, V) logits never exist together.
//!
//! The gradient for the hidden rows is made along with the loss, chunk by chunk, while the logits are at hand. Rows without
//! a target cost nothing. Logits are widened to fp32 before the softmax.

use tch::{Kind, Tensor};

use super::Result;
use super::linear::add_product;

/// The target of a row that carries no loss.
pub const IGNORED: i64 = -100;

/// The most logits held at once: 32 MiB in fp32.
const CHUNK_LOGITS: i64 = 8 << 20;

/// The sum of token losses and the number of tokens in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossSum {
    /// The sum over tokens of -log p, in nats.
    pub loss: f64,
    /// The tokens that carry loss.
    pub tokens: i64,
}

/// The loss of hidden rows (M, H) under the output matrix (V, H) against targets (M).
pub fn loss(hidden: &Tensor, head: &Tensor, targets: &Tensor) -> Result<LossSum> {
    let rows = Rows::with_targets(hidden, targets)?;
    let mut sum = 0.0;
    for (hidden, targets) in rows.chunks(head)? {
        let log_probabilities = log_probabilities(&hidden, head)?;
        sum -= picked(&log_probabilities, &targets)?;
    }
    Ok(LossSum {
        loss: sum,
        tokens: rows.count,
    })
}

/// The same loss, unscaled, and the gradient of `scale` x loss for hidden (M, H); `head_gradient` (V, H) in fp32 is added
/// to, if the output matrix is trained.
pub fn loss_and_gradient(
    hidden: &Tensor,
    head: &Tensor,
    head_gradient: Option<&Tensor>,
    targets: &Tensor,
    scale: f64,
) -> Result<(LossSum, Tensor)> {
    let rows = Rows::with_targets(hidden, targets)?;
    let kind = hidden.f_kind()?;
    let d_hidden = hidden.f_zeros_like()?;
    let mut d_rows = Vec::new();
    let mut sum = 0.0;
    for (hidden, targets) in rows.chunks(head)? {
        let mut gradient = log_probabilities(&hidden, head)?; // (m, V)
        sum -= picked(&gradient, &targets)?;
        // softmax - one-hot
        let _ = gradient.f_exp_()?;
        let targets = targets.f_unsqueeze(1)?;
        let minus_one = Tensor::f_full_like(&targets.f_to_kind(Kind::Float)?, -1.0)?;
        let _ = gradient.f_scatter_add_(1, &targets, &minus_one)?;
        let gradient = gradient.f_mul_scalar_(scale)?.f_to_kind(kind)?;
        d_rows.push(gradient.f_mm(head)?); // (m, H)
        if let Some(head_gradient) = head_gradient {
            add_product(head_gradient, &gradient.f_tr()?, &hidden)?;
        }
    }
    let sum = LossSum {
        loss: sum,
        tokens: rows.count,
    };
    if d_rows.is_empty() {
        return Ok((sum, d_hidden));
    }
    let d_hidden = d_hidden.f_index_copy(0, &rows.index, &Tensor::f_cat(&d_rows, 0)?)?;
    Ok((sum, d_hidden))
}

/// log p of every token after each hidden row: (M, V) in fp32.
pub fn log_probabilities(hidden: &Tensor, head: &Tensor) -> Result<Tensor> {
    Ok(hidden.f_mm(&head.f_tr()?)?.f_log_softmax(-1, Kind::Float)?)
}

/// The sum of the targets' log-probabilities.
fn picked(log_probabilities: &Tensor, targets: &Tensor) -> Result<f64> {
    let picked = log_probabilities.f_gather(1, &targets.f_unsqueeze(1)?, false)?;
    Ok(f64::try_from(&picked.f_sum(Kind::Double)?)?)
}

/// The rows that carry loss.
struct Rows {
    index: Tensor,
    hidden: Tensor,
    targets: Tensor,
    count: i64,
}

impl Rows {
    fn with_targets(hidden: &Tensor, targets: &Tensor) -> Result<Self> {
        let index = targets.f_ne(IGNORED)?.f_nonzero()?.f_reshape([-1])?;
        Ok(Self {
            hidden: hidden.f_index_select(0, &index)?,
            targets: targets.f_index_select(0, &index)?,
            count: index.size()[0],
            index,
        })
    }

    fn chunks(&self, head: &Tensor) -> Result<Vec<(Tensor, Tensor)>> {
        let length = (CHUNK_LOGITS / head.size()[0]).max(1);
        let mut chunks = Vec::new();
        let mut start = 0;
        while start < self.count {
            let length = length.min(self.count - start);
            chunks.push((
                self.hidden.f_narrow(0, start, length)?,
                self.targets.f_narrow(0, start, length)?,
            ));
            start += length;
        }
        Ok(chunks)
    }
}
